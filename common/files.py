"""Files that are whole or absent, and the files and folders that options name."""

import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from common.errors import StopRun, UserError

TEMPORARY = re.compile(r"\.\d+\.[0-9a-f]{8}\.tmp")  # names of files that are being written
ABANDONED_S = 24 * 3600  # where files cannot be locked: a temporary file of that age has no owner any more
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the disk, in the quota, below `ulimit -f`


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream that becomes `path` only when the block ends well; a reader never sees half a file.

    Written beside the target under a hidden temporary name, flushed to disk, then renamed; the folder's entry is
    flushed too. Makes missing folders. The temporary file is locked meanwhile, by which `sweep_leftovers` tells it
    from one whose writer was killed.
    Raises StopRun when there is no room for it, and UserError, naming the path, when it cannot be written for another
    reason (a file for a folder, no rights). Either leaves no temporary file, and what was there as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, stream = _locked_temporary(path.parent)
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)  # before the lock is given up
        with suppress(OSError):  # some file systems cannot flush a folder, and the file is whole either way
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException as error:
        with suppress(OSError):
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def _locked_temporary(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new hidden file, open for writing, with a lock on it.

    Between its creation and its lock `sweep_leftovers` may delete it; then another one is made.
    """
    while True:
        temporary = folder / f".{os.getpid()}.{secrets.token_hex(4)}.tmp"
        stream = temporary.open("xb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, stream
        stream.close()


def cannot_write(path: Path, error: OSError) -> StopRun | UserError:
    """The error for a file that could not be written: StopRun if the disk is full, else UserError."""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return StopRun(f"{path}: cannot be written ({reason})")
    return UserError(f"{path}: cannot be written ({reason}); free it or choose another")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def check_output(path: Path, folder: Path) -> Path:
    """The path itself, if writing there changes nothing outside of the output folder; otherwise a UserError.

    A sub-folder that is a link out of the folder is refused; a link in place of the file will be replaced. The output
    folder itself may be a link. docs/reliability.md lists what is read.
    """
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: not written, {path.parent} is a link that leads out of {folder}; remove it")
    return path


def sweep_leftovers(folder: Path) -> int:
    """Remove the temporary files, in the folder and below, whose writers were killed; returns how many.

    A writer holds the lock of its file, on this machine or, through a network file system's locks, on another one, and
    is never disturbed. Where files cannot be locked, those of the last day stay.
    """
    hidden = (Path(path) for path in files_below(folder) if path.endswith(".tmp"))
    return sum(_swept(path) for path in hidden if TEMPORARY.fullmatch(path.name))


def files_below(folder: str | Path) -> Iterator[str]:
    """The paths of all files in a folder and below; links are not followed, folders that cannot be read are passed."""
    folders = [os.fspath(folder)]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path


def _swept(path: Path) -> bool:
    """Delete a temporary file without an owner; returns whether it was deleted."""
    try:
        with path.open("r+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its writer is alive
                return False
            except OSError:  # a file system without locks
                if time.time() - os.fstat(stream.fileno()).st_mtime <= ABANDONED_S:
                    return False
            path.unlink()  # under the lock: a writer that has just made it will notice
            return True
    except OSError:  # renamed or deleted by another process, or no rights
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError for anything else, without waiting for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise IsADirectoryError("a folder") if stat.S_ISDIR(kind) else OSError("a pipe, socket or device")


def is_file(path: Path) -> bool:
    """Whether the file exists; False for a name that is too long, for which `Path.is_file` may raise."""
    return os.path.isfile(path)  # noqa: PTH113


def need_file(path: Path, option: str, holds: str) -> Path:
    """The path, if it is a file; otherwise a UserError that names the option and what belongs there."""
    if not is_file(path):
        raise UserError(f"{option} {path}: no such file; expected {holds}")
    return path


def need_dir(path: Path, option: str, holds: str) -> Path:
    """The path, if it is a folder; otherwise a UserError that names the option and what belongs there."""
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir may raise for a name that is too long
        raise UserError(f"{option} {path}: no such folder; expected {holds}")
    return path


def need_any(folder: Path, files: Iterable[Path], option: str, holds: str) -> None:
    """Raise UserError, naming the option and what belongs there, when a folder holds none of the files of a list."""
    files = list(files)
    if files and not any(map(is_file, files)):
        which = "its file" if len(files) == 1 else f"the files of the {len(files)} images"
        raise UserError(f"{option} {folder}: none of {which} is there, such as {files[0].name}; expected {holds}")


def nearest_folder(path: Path) -> Path:
    """The path itself if it exists, else the nearest one above it that does. Raises OSError for an impossible name."""
    for above in (path, *path.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            above.lstat()
            return above
    return Path()


def need_writable(folder: Path, option: str) -> Path:
    """The folder; a UserError that names the option when nothing can be written into it.

    One that is missing is made with its first file, so that a command that is refused leaves none.
    """
    try:
        with tempfile.TemporaryFile(dir=nearest_folder(folder)):
            return folder
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot be written to ({error.strerror}); choose another folder") from error


def check_place(path: Path | None, option: str, example: str) -> None:
    """Raise UserError, naming the option, when no file can be written to the path. None is valid.

    For files that are written at the end of a long run: a mistake is reported at its beginning.
    """
    if path is None:
        return
    need_writable(path.parent, option)
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; expected the name of a file, such as {path / example}")
