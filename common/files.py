"""Files that are whole or absent, and names that stay inside their folder. Imports common.errors only."""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from common.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream that becomes `path` only when the block ends well; a reader never sees half a file.

    Written beside the target under a hidden temporary name, flushed to disk, then renamed. Makes missing folders.
    Raises UserError, naming the path, when it cannot be written (a file for a folder, no rights, disk full).
    """
    temporary = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        _forget(temporary)
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); free it or choose another") from error
    except BaseException:
        _forget(temporary)
        raise


def _forget(temporary: Path) -> None:
    with suppress(OSError):  # a folder that could not be made holds nothing to forget
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def check_id(image_id: str, source: Path) -> str:
    """The id itself, if it names a file below a folder and nowhere else.

    Raises UserError naming `source`, the file it came from, for absolute ids, `..`, NUL and backslashes.
    """
    parts = PurePosixPath(image_id).parts
    outside = not parts or image_id.startswith("/") or ".." in parts or "\0" in image_id or "\\" in image_id
    if outside:
        raise UserError(f"{source}: id {image_id!r} leaves the image folder; expected plain ids such as 2007_000032")
    return image_id


def need_dir(path: Path, option: str, holds: str) -> Path:
    """The path, if it is a folder; otherwise a UserError that names the option and what belongs there."""
    if not _true(path.is_dir):
        raise UserError(f"{option} {path}: no such folder; expected {holds}")
    return path


def _true(asked: Callable[[], bool]) -> bool:
    """What `Path.is_dir` or `Path.is_file` answers; False for a name that is too long, for which they may raise."""
    try:
        return asked()
    except OSError:
        return False


def need_writable(folder: Path, option: str) -> Path:
    """The folder, made if it is missing; a UserError that names the option when nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot be written to ({error.strerror}); choose another folder") from error


def check_place(path: Path | None, option: str, example: str) -> None:
    """Raise a UserError that names the option when no file can be written to the path; makes its folder. None passes.

    For what is written at the end of a long run: a mistake is told at its beginning.
    """
    if path is None:
        return
    need_writable(path.parent, option)
    try:
        path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror}); choose another name") from error
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; expected the name of a file, such as {path / example}")


def need_file(path: Path, option: str, holds: str) -> Path:
    """The path, if it is a file; otherwise a UserError that names the option and what belongs there."""
    if not _true(path.is_file):
        raise UserError(f"{option} {path}: no such file; expected {holds}")
    return path
