"""Text files of users, read within bounds. Imports common.errors and the standard library only."""

from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

MAX_BYTES = 256 << 20  # COCO's largest label file as text is a hundredth of it
MAX_LINE = 1 << 20  # characters


def read_text(path: Path, expected: str, max_bytes: int = MAX_BYTES) -> str:
    """A UTF-8 file (a byte order mark is dropped) as text with its own line ends.

    Raises UserError, naming the file and what was `expected`, when it cannot be read, is binary or too large.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise UserError(f"{path}: larger than {max_bytes >> 20} MiB; expected {expected}")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: UTF-16 text; save it as UTF-8; expected {expected}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; expected {expected}") from error
    if "\0" in text:
        raise UserError(f"{path}: a binary file; expected {expected}")
    return text


def numbered_lines(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, stripped line) of the lines that are neither empty nor a `#` comment."""
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            raise UserError(f"{path}, line {number}: longer than {MAX_LINE} characters; is it the right file?")
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped
