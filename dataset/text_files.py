"""Files of users, found and read within bounds, and how what they say is shown.

Nothing here waits for a pipe or reads more than it should.
"""

import json
import os
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from common import files
from common.errors import UserError
from common.files import open_regular

MAX_BYTES = 256 << 20  # COCO's largest label file as text is a hundredth of it
# Folders and files of systems, in lower case: thumbnails, waste baskets, what zip programs of macOS add.
SYSTEM = set(
    "@eadir @tmp #recycle #snapshot @recycle @recently-snapshot $recycle.bin __macosx lost+found "
    "thumbs.db ehthumbs.db desktop.ini".split()
) | {"system volume information"}
SHOWN = 60  # characters of a name that are repeated in a message


def files_below(root: Path, endings: str | tuple[str, ...]) -> list[Path]:
    """All files whose names end so, at any depth, sorted; links to folders are not followed."""
    return sorted(Path(path) for path in files.files_below(root) if path.endswith(endings))


def is_systems(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or belongs to a system."""
    return name[0] == "." or name.lower() in SYSTEM


def read_bytes(path: Path, expected: str, max_bytes: int = MAX_BYTES) -> bytes:
    """All of a file. Raises UserError, naming it and what was `expected`, when it is too large or no regular file."""
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > max_bytes:
                raise UserError(f"{path}: larger than {max_bytes >> 20} MiB; expected {expected}")
            return stream.read(max_bytes)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected {expected}") from error


def read_text(path: Path, expected: str, max_bytes: int = MAX_BYTES) -> str:
    """A UTF-8 file (a byte order mark is dropped) as text with its own line ends.

    Raises UserError, naming the file and what was `expected`, when it cannot be read, is binary or too large.
    """
    data = read_bytes(path, expected, max_bytes)
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


class RepeatedField(UserError):
    """A file with an object in JSON that has a key twice."""


class RepeatedKey(ValueError):
    """An object in JSON that has a key twice, of which Python would keep the last."""


def unique_json(text: str) -> Any:
    """The JSON value that a text is. Raises ValueError where it is none, and RepeatedKey."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return result


def parse_json(path: Path, text: str, expected: str) -> Any:
    """The JSON value that a text is; raises UserError, naming the file and the line, where it is none.

    So it does for an object that has a key twice.
    """
    try:
        return unique_json(text)
    except RepeatedKey as error:
        line = _line_of_repeated_key(text)
        raise UserError(
            f"{path}, line {line}: {shown(str(error))} stands twice in one object; put them in one"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON that can be read; expected {expected}") from error


def _line_of_repeated_key(text: str) -> int:
    """The line on which an object of valid JSON gets a key that it has."""
    keys: list[set[str]] = []
    for match in re.finditer(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}]', text):
        if match[0] == "{":
            keys.append(set())
        elif match[0] == "}":
            keys.pop()
        elif match[2]:
            key = json.loads(match[1])
            if key in keys[-1]:
                return text.count("\n", 0, match.start()) + 1
            keys[-1].add(key)
    return 1


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, stripped line) of the lines that are neither empty nor a `#` comment."""
    for number, line in enumerate(StringIO(text, newline=""), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def shown(text: str) -> str:
    """Foreign text in quotes, for a message: control characters escaped, cut where it is long."""
    written = repr(text[: SHOWN + 1])
    return written if len(written) <= SHOWN + 2 else f"{written[:SHOWN]}..."
