"""What all fuzz tests share: damaged copies of whole files, and what a reader may do with any bytes at all."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from common.errors import UserError
from dataset.spec import DatasetSpec, prompts_with

Value = TypeVar("Value")
PATIENCE = 60  # seconds; far more than any of these files takes
MAX_MESSAGE = 3000
CLASSES = ("dog", "traffic light", "person")
SPEC = DatasetSpec("mine", CLASSES, prompts_with(CLASSES, {}), ("sky",), True, 0.4)

# What readers of text, JSON and XML stumble over.
TOKENS = [
    *rb"../ / \ // ./ ~ # : ; , [ ] { } < & - 1e999 NaN -1 null true \ud800 \u0000 \u001b &#27; &a; <![CDATA[".split(),
    *(b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc2\x9b", b"\x1b[2J", b"\xe2\x80\xa8", b"\xff\xff\xff\x7f"),
    *(b"\r", b"\n", b"\r\n", b"\t", b" ", b"\x0b", b'"', b"'", b"<!DOCTYPE a>", b"[background]", b"image,labels\n"),
    *(b"9" * 5000, b"[" * 3000, b"\xcc\x88" * 50, b"x" * 300, b"a/" * 200, b"\x00" * 16),
]


def mutated(*whole: bytes) -> st.SearchStrategy[bytes]:
    """One of these files with up to six wounds: bits flipped, cut off, cut out, doubled, spliced, tokens put in."""
    number = st.integers(0, 1 << 20)
    wounds = st.lists(st.tuples(st.integers(0, 5), number, number, number), max_size=6)
    return st.builds(_wounded, st.sampled_from(whole), wounds, st.just(whole))


def any_bytes(*whole: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, or mutations of whole files, which go deeper."""
    return st.one_of(mutated(*whole), mutated(*whole), st.binary(max_size=200))


def _wounded(data: bytes, wounds: Sequence[tuple[int, int, int, int]], whole: Sequence[bytes]) -> bytes:
    for wound, at, number, other in wounds:
        at %= len(data) + 1
        before, rest, spliced = data[:at], data[at:], whole[other % len(whole)]
        token = TOKENS[number % len(TOKENS)]
        data = (
            before + bytes(byte ^ 1 << number % 8 for byte in rest[:1]) + rest[1:],
            before,
            before + rest[number % 64 :],
            before + rest[: number % 256] * (other % 40) + rest,
            before + spliced[number % (len(spliced) + 1) :],
            before + token + rest[len(token) * (other % 2) :],
        )[wound]
    return data


def read_or_refuse(read: Callable[[Path], Value], path: Path, data: bytes) -> Value | None:
    """What a reader makes of the bytes, or None where it refuses them in one line that names the file.

    Any other exception, a file it leaves behind, or an endless reading fails the test.
    """
    path.write_bytes(data)
    before = listing(Path())
    try:
        with patience():
            value = read(path)
    except UserError as error:
        check_message(str(error), path.name)
        value = None
    assert listing(Path()) == before
    return value


def check_message(message: str, *names: str) -> None:
    """One short line that a terminal shows as it is."""
    control = any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in message)
    assert len(message) < MAX_MESSAGE and not control, ascii(message)
    assert all(name in message for name in names), ascii(message)


def check_ids(ids: Sequence[str]) -> None:
    """Each names a file below a folder, by one name only, and may be a line of a text file."""
    assert len(set(ids)) == len(ids)
    for key in ids:
        assert os.path.normpath(f"images/{key}") == f"images/{key}", ascii(key)
        assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in key) and len(key.splitlines()) == 1
        key.encode()


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder."""
    paths = sorted(folder.rglob("*"))
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


class Endless(BaseException):
    """Nobody takes it for the error of a file, as they might a TimeoutError."""


@contextmanager
def patience() -> Iterator[None]:
    """Raise Endless in what does not come to an end."""

    def give_up(*_: Any) -> None:
        raise Endless(f"not done after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
