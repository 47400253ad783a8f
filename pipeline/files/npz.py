"""Arrays in an npz file: read without pickle, within bounds, and only where the file agrees with itself.

Whatever is wrong with a file raises one of the dozen kinds of exceptions of zipfile, zlib and numpy, or a ValueError of
this module; the caller names the file.

A zip file says everything about an entry twice: in front of its data, and in a directory at its end. zipfile believes
the directory. Here both must say the same, and nothing may lie between the entries, so that a changed byte is seen.
"""

import math
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

MOST_BYTES = 1 << 30  # of all arrays of a file
MOST_ARRAYS = 16
MOST_TEXT = 1 << 18  # characters of a value that is text
MOST_DIRECTORY = 1 << 16  # bytes; zipfile would read one of any length
_MEMBER = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,40})\.npy")
# What numpy writes for arrays without fields; parsed by pattern, as numpy's own reader evaluates a Python literal.
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[biufcSU][0-9]{1,7})', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,60})\), \}\s*"
)


@contextmanager
def opened_arrays(stream: BinaryIO, as_written: bool = False) -> Iterator["Arrays"]:
    """The arrays of an npz file that is open and stays so. Raises ValueError, and whatever zipfile and zlib raise.

    as_written  refuse also what numpy would have written in another way, though it means the same
    """
    _check_structure(stream, as_written)
    stream.seek(0)
    with zipfile.ZipFile(stream) as archive:
        yield Arrays(archive)


@dataclass(frozen=True)
class _Header:
    """Of an array in a file: where it lies, what it is, and at how many bytes its values begin."""

    entry: zipfile.ZipInfo
    dtype: np.dtype
    shape: tuple[int, ...]
    order: Any  # "C" or "F"
    start: int


class Arrays:
    """The arrays of an open file by name; nothing but their headers is read before it is asked for."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        entries = archive.infolist()
        if len(entries) > MOST_ARRAYS or sum(entry.file_size for entry in entries) > MOST_BYTES:
            raise ValueError(f"more than {MOST_ARRAYS} arrays or {MOST_BYTES >> 20} MiB")
        self.headers = {_name(entry): _header(archive, entry) for entry in entries}
        if len(self.headers) < len(entries):
            raise ValueError("two arrays of one name")

    def get(self, name: str, most: int) -> np.ndarray | None:
        """An array of at most `most` values, or None where there is none; a larger one is a ValueError."""
        if name not in self.headers:
            return None
        if math.prod(self.headers[name].shape) > most:
            raise ValueError(f"`{name}` of shape {self.headers[name].shape}")
        return self.read(name)

    def read(self, name: str) -> np.ndarray:
        """One array, not to be written to."""
        header = self.headers[name]
        with self._archive.open(header.entry) as stream:
            stream.read(header.start)
            data = stream.read(header.entry.file_size - header.start)
        if header.dtype.kind == "U":
            data.decode("utf-32-be" if header.dtype.str[0] == ">" else "utf-32-le")  # numpy would take any number
        return np.frombuffer(data, header.dtype).reshape(header.shape, order=header.order)


def _name(entry: zipfile.ZipInfo) -> str:
    named = _MEMBER.fullmatch(entry.filename)
    if named is None or entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("an entry that is no array")
    return named[1]


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Header:
    """What numpy wrote before the values, checked against the size of the entry."""
    with archive.open(entry) as stream:
        start = stream.read(10)  # magic, version 1.0, length
        length = int.from_bytes(start[8:], "little")
        said = _HEADER.fullmatch(stream.read(length))
    if start[:8] != b"\x93NUMPY\x01\x00" or said is None:
        raise ValueError("an array that is not plain")
    dtype, shape = np.dtype(said[1].decode()), tuple(int(side) for side in said[3].split(b",") if side.strip())
    if dtype.itemsize > 4 * MOST_TEXT:
        raise ValueError(f"a record of {dtype.itemsize // 4} characters")
    if 10 + length + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise ValueError("an array of another size than it says")
    return _Header(entry, dtype, shape, "F" if said[2] == b"True" else "C", 10 + length)


# --- the zip file around them (APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16) ---------------------

_LOCAL, _CENTRAL, _END = 30, 46, 22  # bytes of the headers, without names
_STREAMED = 8  # flag: CRC and sizes stand behind the data, in up to so many bytes:
_DESCRIPTOR = 24
_ELSEWHERE = b"\xff" * 8  # in place of both sizes in a local header: see its 64-bit field, which numpy always writes


def _check_structure(stream: BinaryIO, as_written: bool) -> None:
    """Raise ValueError unless the file is its entries, one right behind another, then their directory and its end."""
    records, start = _directory(stream)
    if as_written and not all(_as_numpy(record) for record in records):
        raise ValueError("a directory that numpy did not write")
    least = most = 0  # where the next part begins
    for record in sorted(records, key=_offset):
        if not least <= _offset(record) <= most:
            raise ValueError("entries that do not lie one behind another")
        least = _end_of_entry(stream, record)
        most = least + (_DESCRIPTOR if record[8] & _STREAMED else 0)
    if not least <= start <= most:
        raise ValueError("something else between its entries and their directory")


def _directory(stream: BinaryIO) -> tuple[list[bytes], int]:
    """The records of the directory, one an entry, and where it begins."""
    end = stream.seek(0, 2) - _END
    stream.seek(max(0, end - 20))
    tail = stream.read(20 + _END).rjust(20 + _END, b"\0")  # the locator of a 64-bit directory, if any, and the end
    mark, disk, first, here, count, size, start, comment = struct.unpack("<4s4H2LH", tail[20:])
    if mark != b"PK\5\6" or tail[:4] == b"PK\6\7" or size > MOST_DIRECTORY:
        raise ValueError("no short directory at its end")
    if disk or first or comment or start + size != end:
        raise ValueError("a directory that is not where it says")
    stream.seek(start)
    records = list(_records(stream.read(size)))
    if not here == count == len(records):
        raise ValueError("a directory of another length than it says")
    return records, start


def _records(directory: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(directory):
        if len(directory) < at + _CENTRAL or directory[at : at + 4] != b"PK\1\2":
            raise ValueError("a damaged directory")
        length = _CENTRAL + sum(struct.unpack_from("<3H", directory, at + 28))  # name, further fields, comment
        yield directory[at : at + length]
        at += length


def _as_numpy(record: bytes) -> bool:
    """Whether what the directory alone says is what Python writes there: who made the entry, and its attributes."""
    made_by, needs = record[4:6], record[6:7]
    return made_by == needs + b"\3" and record[30:42] == struct.pack("<4HL", 0, 0, 0, 0, 0o600 << 16)


def _offset(record: bytes) -> int:
    return int.from_bytes(record[42:46], "little")


def _end_of_entry(stream: BinaryIO, record: bytes) -> int:
    """Where an entry's data end. Raises ValueError where its own header says anything else than the directory."""
    packed, unpacked, name = struct.unpack_from("<2LH", record, 20)
    stream.seek(_offset(record))
    local = stream.read(_LOCAL)
    name_read, more = stream.read(name), stream.read(int.from_bytes(local[28:30], "little"))
    streamed = record[8] & _STREAMED
    sizes = local[18:26] == record[20:28]
    if local[18:26] == _ELSEWHERE:
        sizes = more == struct.pack("<2H2Q", 1, 16, unpacked, packed)
    same = local[4:14] == record[6:16] and name_read == record[_CENTRAL : _CENTRAL + name]
    if local[:4] != b"PK\3\4" or local[26:28] != record[28:30] or not same:
        raise ValueError("an entry of which the directory says something else")
    if not streamed and not (sizes and local[14:18] == record[16:20]):
        raise ValueError("an entry of which the directory says something else")
    return _offset(record) + _LOCAL + name + len(more) + packed
