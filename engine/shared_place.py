"""Whether all machines see the folder, or the address, that results go to.

A worker whose node has a folder of the same name, but its own, would write where nobody looks.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

NETWORK_FOLDER_S = 5  # how long another machine may take to see a new file


@contextmanager
def marked(place: str) -> Iterator[str]:
    """A small file in the folder or below the address, while the block runs; yields its place. No place, no file."""
    if not place:
        yield ""
        return
    if "://" in place:
        from engine import remote

        mark = f"{place}/.{secrets.token_hex(8)}.tmp"
        remote.put_small(mark, b"seen by all nodes?")
        try:
            yield mark
        finally:
            remote.remove(mark)
        return
    path = Path(place) / f".{os.getpid()}.{secrets.token_hex(4)}.tmp"  # named and locked as files being written are
    with path.open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield str(path)
        finally:
            path.unlink(missing_ok=True)


def check_mark(mark: str) -> None:
    """Raise UserError when this machine does not see the mark."""
    if not is_there_on_this_machine(mark):
        where = mark.rpartition("/")[0]
        raise UserError(
            f"{where}: machine {os.uname().nodename} does not see what the others write there; "
            "give a folder that all machines share, or an address such as s3://bucket/cams"
        )


def is_there_on_this_machine(mark: str) -> bool:
    if "://" in mark:
        from engine import remote

        return remote.is_there(mark)
    for _ in range(NETWORK_FOLDER_S * 10):
        if Path(mark).exists():
            return True
        time.sleep(0.1)
    return False
