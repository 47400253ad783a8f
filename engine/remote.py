"""Files on fsspec addresses (`s3://bucket/photos`), by way of files of this machine.

The rest of the project knows paths only. A worker fetches what it needs into a folder that stands in for the
addresses, works there, and puts the results. Object stores show an object whole or not at all; on other file
systems (hdfs, sftp) a file is written under a hidden name and then moved.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.ids import plain_id

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
AT_ONCE = 32  # files that are in memory together


class Address(str):
    """The address of a file or folder that is not on this machine, such as `s3://bucket/photos`; no slash at its end.

    Not a path: pathlib would make `s3:/bucket` of it.
    """


def place(text: str) -> Path | Address:
    """A path, or an address as it was typed."""
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Address(text.rstrip("/")) if "://" in text else Path(text)


@dataclass(frozen=True)
class StandIn:
    """A folder of this machine in which `s3://bucket/photos` is `s3/bucket/photos`."""

    folder: Path

    def path(self, address: str) -> Path:
        """Where the file or folder of an address is here; raises UserError when the address climbs."""
        scheme, _, rest = address.partition("://")
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
            raise UserError(f"{address}: not an address; expected one such as s3://bucket/photos")
        return self.folder / scheme / plain_id(rest.strip("/"), scheme)

    def address(self, path: Path) -> str:
        """The address that a path of the folder stands in for; "" for other paths."""
        return self.told(path) if path.is_relative_to(self.folder) else ""

    def told(self, text: object) -> str:
        """A text in which paths of the folder are addresses again."""
        return re.sub(rf"{re.escape(str(self.folder))}/([^/\s]+)/", r"\1://", str(text))


def below(address: str) -> tuple[list[str], list[str]]:
    """The names of all files below an address, with `/`, sorted; and those that cannot be taken.

    The latter would leave a folder (`../x`) or are spelled as no file is (`a//b`). Raises UserError.
    """
    files, root = _opened(address)
    try:
        found = [str(path) for path in files.find(root)]
    except Exception as error:
        raise _unfit(address, "listed", error) from error
    names = sorted(path.removeprefix(root).removeprefix("/") for path in found if path.rstrip("/") != root)
    names = [name for name in names if not name.endswith("/")]  # a store's way to show an empty folder
    refused = [name for name in names if not _is_plain(name)]
    return [name for name in names if _is_plain(name)], refused


def _is_plain(name: str) -> bool:
    try:
        return plain_id(name, "") == name
    except UserError:
        return False


def fetch(addresses: Iterable[str], stand_in: StandIn) -> dict[str, str]:
    """Copy files into the folder that stands in for them; those that are not there are left out.

    Returns, by address, one line for each file that is there and cannot be read.
    """
    troubles = {}
    for files, group in _groups(addresses):
        paths = [files._strip_protocol(address) for address in group]
        for address, content in zip(group, files.cat_ranges(paths, None, None, on_error="return")):
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, BaseException):
                troubles[address] = str(_unfit(address, "read", content))
            else:
                target = stand_in.path(address)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    return troubles


def put(addresses: Iterable[str], stand_in: StandIn) -> None:
    """Copy files from the folder that stands in to their addresses, each whole or not at all; raises UserError."""
    for files, group in _groups(addresses):
        try:
            _write(files, {files._strip_protocol(address): stand_in.path(address).read_bytes() for address in group})
        except Exception as error:
            raise _unfit(group[0], "written", error) from error


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


def put_small(address: str, content: bytes) -> None:
    """Write one file; raises UserError."""
    files, path = _opened(address)
    try:
        _write(files, {path: content})
    except Exception as error:
        raise _unfit(address, "written", error) from error


def is_there(address: str) -> bool:
    """Whether there is such a file; raises UserError when that cannot be found out."""
    files, path = _opened(address)
    try:
        return bool(files.exists(path))
    except Exception as error:
        raise _unfit(address, "read", error) from error


def remove(address: str) -> None:
    """Delete one file; raises UserError."""
    files, path = _opened(address)
    try:
        files.rm_file(path)
    except Exception as error:
        raise _unfit(address, "deleted", error) from error


def _groups(addresses: Iterable[str]) -> Iterator[tuple[Any, Sequence[str]]]:
    """A few addresses of one file system at a time."""
    for _, same in groupby(addresses, key=lambda address: address.partition("://")[0]):
        group = list(same)
        for start in range(0, len(group), AT_ONCE):
            yield _opened(group[start])[0], group[start : start + AT_ONCE]


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address and the path there. Nothing is kept of listings, which others change."""
    import fsspec  # here, as it is not installed with the rest

    try:
        return fsspec.url_to_fs(address, use_listings_cache=False)
    except Exception as error:  # an unknown scheme, a package that is missing, credentials that are malformed
        raise _unfit(address, "opened", error) from error


def _unfit(address: str, what: str, error: BaseException) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{address}: cannot be {what} ({reason}); check the address and the rights to it")
