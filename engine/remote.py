"""Files on fsspec addresses (`s3://bucket/photos`), by way of files of this machine.

The rest of the project knows paths only. A worker copies what it needs into a folder that mirrors the addresses, works
there, and copies the results back. Object stores show an object whole or not at all; on other file systems (hdfs, sftp)
a file is written under a hidden name and then moved.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import cannot_write
from dataset.ids import plain_id

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
GROUP = 32  # files that are in memory together
NETWORK_FOLDER_S = 5  # how long another machine may take to see a new file


class Address(str):
    """The address of a file or folder that is not on this machine, such as `s3://bucket/photos`; no slash at its end.

    Not a path: pathlib would make `s3:/bucket` of it.
    """


def path_or_address(text: str) -> Path | Address:
    """A path, or an address as it was typed."""
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Address(text.rstrip("/")) if "://" in text else Path(text)


@dataclass(frozen=True)
class Mirror:
    """A folder of this machine in which `s3://bucket/photos` is `s3/bucket/photos`."""

    folder: Path

    def path(self, address: str) -> Path:
        """The path of an address in the folder; raises UserError for an address that leaves it."""
        scheme, _, rest = address.partition("://")
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
            raise UserError(f"{address}: not an address; expected one such as s3://bucket/photos")
        return self.folder / scheme / plain_id(rest.strip("/"), scheme)

    def address(self, path: Path) -> str:
        """The address of a path in the folder; "" for other paths."""
        return self.with_addresses(path) if path.is_relative_to(self.folder) else ""

    def with_addresses(self, text: object) -> str:
        """The text with addresses in place of paths of the folder."""
        return re.sub(rf"{re.escape(str(self.folder))}/([^/\s]+)/", r"\1://", str(text))


def list_files(address: str) -> tuple[list[str], list[str]]:
    """The names of all files below an address, with `/`, sorted; and the names that no file can have.

    The latter leave a folder (`../x`) or have empty parts (`a//b`). Raises UserError.
    """
    with _file_system(address, "listed") as (files, root):
        paths = [str(path) for path in files.find(root)]
    names = sorted(path.removeprefix(root).removeprefix("/") for path in paths if path.rstrip("/") != root)
    good, bad = list[str](), list[str]()
    for name in names:
        if not name.endswith("/"):  # stores list an empty folder that way
            try:
                (good if plain_id(name, "") == name else bad).append(name)
            except UserError:
                bad.append(name)
    return good, bad


def fetch(addresses: Iterable[str], mirror: Mirror) -> dict[str, str]:
    """Copy files into the mirror; missing files are left out.

    Returns one line for each file that is there and cannot be read, by address.
    """
    errors = {}
    for group in _groups(addresses):
        with _file_system(group[0], "read") as (files, _):
            paths = [files._strip_protocol(address) for address in group]
            contents = files.cat_ranges(paths, None, None, on_error="return")
        for address, content in zip(group, contents):
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, BaseException):
                errors[address] = str(_error(address, "read", content))
            else:
                target = mirror.path(address)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    return errors


def put(addresses: Iterable[str], mirror: Mirror) -> None:
    """Copy files from the mirror to their addresses, each whole or not at all; raises UserError."""
    for group in _groups(addresses):
        with _file_system(group[0], "written") as (files, _):
            _write(files, {files._strip_protocol(address): mirror.path(address).read_bytes() for address in group})


def put_small(address: str, content: bytes) -> None:
    """Write one file; raises UserError."""
    with _file_system(address, "written") as (files, path):
        _write(files, {path: content})


def is_there(address: str) -> bool:
    """Whether the file exists; raises UserError when that cannot be determined."""
    with _file_system(address, "read") as (files, path):
        return bool(files.exists(path))


def remove(address: str) -> None:
    """Delete one file; raises UserError."""
    with _file_system(address, "deleted") as (files, path):
        files.rm_file(path)


def _write(files: Any, contents: dict[str, bytes]) -> None:
    protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
    if protocols & OBJECT_STORES:
        files.pipe(contents)
        return
    for path, content in contents.items():
        folder, _, name = path.rpartition("/")
        hidden = f"{folder}/.{name}.{secrets.token_hex(4)}.tmp"
        files.makedirs(folder, exist_ok=True)
        files.pipe_file(hidden, content)
        files.mv(hidden, path)


def _groups(addresses: Iterable[str]) -> Iterator[Sequence[str]]:
    """At most GROUP addresses of one file system at a time."""
    for _, same in groupby(addresses, key=lambda address: address.partition("://")[0]):
        group = list(same)
        yield from (group[start : start + GROUP] for start in range(0, len(group), GROUP))


@contextmanager
def _file_system(address: str, action: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address and the path there; errors of the block become a UserError.

    Listings are not cached, as other machines change them.
    """
    import fsspec  # here, as it is not installed with the rest

    try:  # fsspec and its stores raise all sorts of errors: unknown schemes, missing packages, bad credentials
        yield fsspec.url_to_fs(address, use_listings_cache=False)
    except UserError:
        raise
    except Exception as error:
        raise _error(address, action, error) from error


def _error(address: str, action: str, error: BaseException) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{address}: cannot be {action} ({reason}); check the address and the rights to it")


@contextmanager
def probe_file(folder: str) -> Iterator[str]:
    """A small file in the folder, or below the address, while the block runs; yields its place, "" without a folder.

    A worker whose machine has another folder of the same name would write where nobody looks (`check_visible`).
    """
    if not folder:
        yield ""
        return
    name = f".{os.getpid()}.{secrets.token_hex(4)}.tmp"  # named and locked like files that are being written
    if "://" in folder:
        put_small(f"{folder}/{name}", b"seen by all machines?")
        try:
            yield f"{folder}/{name}"
        finally:
            remove(f"{folder}/{name}")
        return
    path = Path(folder) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("wb")
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield str(path)
        finally:
            path.unlink(missing_ok=True)


def check_visible(probe: str) -> None:
    """Raise UserError when this machine does not see the probe file."""
    if not is_visible(probe):
        folder = probe.rpartition("/")[0]
        raise UserError(
            f"{folder}: machine {os.uname().nodename} does not see what the others write there; "
            "give a folder that all machines share, or an address such as s3://bucket/cams"
        )


def is_visible(probe: str) -> bool:
    """Whether this machine sees the file; waits for network folders."""
    if "://" in probe:
        return is_there(probe)
    for _ in range(NETWORK_FOLDER_S * 10):
        if Path(probe).exists():
            return True
        time.sleep(0.1)
    return False
