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
MAX_MESSAGE = 500
CLASSES = ("dog", "traffic light", "person")
SPEC = DatasetSpec("mine", CLASSES, prompts_with(CLASSES, {}), ("sky",), True, 0.4)

# What readers of text, JSON and XML stumble over.
TOKENS = [
    *(
        b"\0",
        b"\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xc2\x9b",
        b"\x1b[2J",
        b"\r",
        b"\n",
        b"\r\n",
        b"\t",
        b" ",
        b"\x0b",
    ),
    *(
        b"../",
        b"/",
        b"\\",
        b"//",
        b"./",
        b"~",
        b'"',
        b"'",
        b"#",
        b":",
        b";",
        b",",
        b"[",
        b"]",
        b"{",
        b"}",
        b"<",
        b"&",
        b"-",
    ),
    *(
        b"1e999",
        b"NaN",
        b"-1",
        b"9" * 30,
        b"9" * 5000,
        b"null",
        b"true",
        b"\\ud800",
        b"\\u0000",
        b"\\u001b",
        b"[" * 3000,
    ),
    *(
        b"&#27;",
        b"&a;",
        b"<!DOCTYPE a>",
        b"<![CDATA[",
        b"<?x?>",
        b"\xe2\x80\xa8",
        b"\xcc\x88" * 50,
        b"x" * 300,
        b"a/" * 200,
    ),
    *(b"\x00" * 16, b"\xff" * 8, b"\x80\x00\x00\x00", b"\xff\xff\xff\x7f", b"[background]", b"image,labels\n"),
]


def mutated(*whole: bytes) -> st.SearchStrategy[bytes]:
    """One of these files with up to six wounds: bits flipped, cut off, cut out, doubled, spliced, tokens put in."""
    number = st.integers(0, 1 << 20)
    wounds = st.lists(st.tuples(st.sampled_from(_WOUNDS), number, number, number), max_size=6)
    return st.builds(_wounded, st.sampled_from(whole), wounds, st.just(whole))


def any_bytes(*whole: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, or mutations of whole files, which go deeper."""
    return st.one_of(mutated(*whole), mutated(*whole), st.binary(max_size=200))


def _wounded(
    data: bytes, wounds: Sequence[tuple[Callable[..., bytes], int, int, int]], whole: Sequence[bytes]
) -> bytes:
    for wound, *where in wounds:
        data = wound(data, *where, whole)
    return data


def _flip(data: bytes, at: int, bit: int, _: int, __: object) -> bytes:
    at %= max(len(data), 1)
    return data[:at] + bytes(byte ^ 1 << bit % 8 for byte in data[at : at + 1]) + data[at + 1 :]


def _truncate(data: bytes, at: int, *_: object) -> bytes:
    return data[: at % (len(data) + 1)]


def _cut_out(data: bytes, at: int, size: int, *_: object) -> bytes:
    at %= len(data) + 1
    return data[:at] + data[at + size % 64 :]


def _double(data: bytes, at: int, size: int, times: int, _: object) -> bytes:
    at %= len(data) + 1
    return data[:at] + data[at : at + size % 256] * (times % 40) + data[at:]


def _splice(data: bytes, at: int, other: int, place: int, whole: Sequence[bytes]) -> bytes:
    rest = whole[other % len(whole)]
    return data[: at % (len(data) + 1)] + rest[place % (len(rest) + 1) :]


def _put_in(data: bytes, at: int, token: int, over: int, _: object) -> bytes:
    at %= len(data) + 1
    put = TOKENS[token % len(TOKENS)]
    return data[:at] + put + data[at + (len(put) if over % 2 else 0) :]


_WOUNDS = (_flip, _truncate, _cut_out, _double, _splice, _put_in)


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
    assert len(message) < MAX_MESSAGE and message.isprintable(), ascii(message)
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
