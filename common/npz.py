"""The arrays of an npz file, read without pickle; every kind of damage raises one UserError.

Imports numpy inside its function only.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import StopRun, UserError, in_short
from common.files import open_regular

MOST_BYTES = 1 << 30  # of all arrays of a file
MOST_ARRAYS = 16
TRIES = 100


@contextmanager
def opened_npz(path: Path, missing: str, expected: str, remedy: str) -> Iterator[Mapping[str, Any]]:
    """The arrays by name, read on access. Other errors of the block count as damage of the file, too.

    missing   what to say of a file that is not there
    expected  what the file should be: "a CAM file of generate_cams.py"
    remedy    what to do about a damaged one: "make it again"
    """
    import numpy as np

    try:
        stream = open_regular(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: {missing}") from error
    except (OSError, ValueError) as error:  # the latter for a name with a NUL byte
        reason = in_short(getattr(error, "strerror", None) or error)
        raise UserError(f"{path}: cannot be read ({reason}); expected {expected}") from error
    try:
        with stream:
            with zipfile.ZipFile(stream) as archive:  # what it claims, before memory is spent on it
                entries = archive.infolist()
            if len(entries) > MOST_ARRAYS or sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise ValueError(f"more than {MOST_ARRAYS} arrays or {MOST_BYTES >> 20} MiB")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                yield _Arrays(arrays)
    except (UserError, StopRun):
        raise
    except Exception as error:  # zipfile, zlib, numpy and json raise a dozen kinds for wrong bytes
        reason = f"damaged, or holds something else than plain arrays ({in_short(error)})"
        raise UserError(f"{path}: {reason}; expected {expected}, {remedy}") from error


def read_npy(stream: BinaryIO) -> Any:
    """The array of an open npy file, from where the stream stands."""
    import numpy as np

    start = stream.tell()

    def again() -> Any:
        stream.seek(start)
        return np.load(stream, allow_pickle=False)

    return _parsed(again)


def _parsed(read: Callable[[], Any]) -> Any:
    """What `read` gives, tried again where Python's parser mixed up two threads.

    numpy parses the header of an array with `ast`. CPython 3.11 counts the depth of all threads' syntax trees in one
    number and now and then raises SystemError for a sound text (CPython, gh-106905).
    """
    for _ in range(TRIES):
        with suppress(SystemError):
            return read()
    return read()


class _Arrays(Mapping):
    """The arrays of an open npz file by name; each is read when it is asked for."""

    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Any:
        return _parsed(lambda: self._arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays.files)

    def __len__(self) -> int:
        return len(self._arrays.files)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays.files
