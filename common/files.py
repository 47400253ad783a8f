"""Files that are whole or absent, and the files and folders that options name."""

import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from common.errors import StopRun, UserError

TEMPORARY = re.compile(r"\.\d+\.[0-9a-f]{8}\.tmp")  # names of files that are being written
ABANDONED_S = 24 * 3600  # where files cannot be locked: a temporary file of that age has no owner any more
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the disk, in the quota, below `ulimit -f`


# --- writing --------------------------------------------------------------------------------------


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
        _sync_folder(path.parent)
    except OSError as error:
        _forget(temporary)
        raise cannot_write(path, error) from error
    except BaseException:
        _forget(temporary)
        raise


def _locked_temporary(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new hidden file that nobody else can lock, open for writing.

    Between its creation and its lock a sweep may take it for a leftover: then its name is gone, and another is made.
    """
    while True:
        temporary = folder / f".{os.getpid()}.{secrets.token_hex(4)}.tmp"
        stream = temporary.open("xb")
        with suppress(OSError):  # a file system without locks; sweep_leftovers knows
            fcntl.flock(stream, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, stream
        stream.close()


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot, and the file is whole either way
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _forget(temporary: Path | None) -> None:
    with suppress(OSError):
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> StopRun | UserError:
    """What to raise for a file that could not be written: the run's end if the disk is full, else its own failure."""
    said = error.strerror or str(error)
    if error.errno in FULL:
        return StopRun(f"{path}: cannot be written ({said})")
    return UserError(f"{path}: cannot be written ({said}); free it or choose another")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def check_output(path: Path, folder: Path) -> Path:
    """The path of a file that is about to be written, if it lies in its output folder once links are followed.

    Nothing is written through a link out of the output folder: a link in place of the file is replaced, a sub-folder
    that leads out is refused. The output folder itself may be a link. docs/reliability.md says what is read.
    Raises UserError.
    """
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: not written, {path.parent} is a link that leads out of {folder}; remove it")
    return path


# --- leftovers ------------------------------------------------------------------------------------


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
    """Whether a temporary file had no owner and is gone now."""
    try:
        with path.open("r+b") as stream:
            if not _without_owner(stream):
                return False
            path.unlink()  # under the lock: a writer that has just made it will see that it is gone
            return True
    except OSError:  # renamed or swept by another meanwhile, or not ours to remove
        return False


def _without_owner(stream: IO[bytes]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return time.time() - os.fstat(stream.fileno()).st_mtime > ABANDONED_S


# --- what a command is given ----------------------------------------------------------------------


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading. Anything else is an OSError, and is not waited for as a pipe would be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise IsADirectoryError("a folder") if stat.S_ISDIR(kind) else OSError("a pipe, socket or device")


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for a name that is too long for one, for which `Path.is_file` may raise."""
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
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; expected the name of a file, such as {path / example}")
