"""Npz files of numpy and of others are read; what says two things of itself, or hides something, is refused."""

import io
import struct
import zipfile
from typing import IO, Any

import numpy as np
import pytest

from pipeline.files.npz import opened_arrays

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array("text"), "c": np.zeros((0, 4), np.float16)}


def written(compress: bool = True) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(stream, **ARRAYS)  # type: ignore[arg-type]
    return stream.getvalue()


def entries() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(written())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read(data: bytes, as_written: bool = False) -> dict[str, np.ndarray]:
    with opened_arrays(io.BytesIO(data), as_written) as arrays:
        return {name: arrays.read(name) for name in arrays.headers}


def check(found: dict[str, np.ndarray]) -> None:
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("compress", [False, True])
def test_what_numpy_writes_is_read(compress: bool) -> None:
    check(read(written(compress), as_written=True))


class Pipe(io.RawIOBase):
    """Nobody can go back in it, so that CRC and sizes come behind the data."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def zipped(stream: IO[bytes], **fields: Any) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries().items():
            info = zipfile.ZipInfo(name, (2023, 5, 17, 12, 30, 8))
            info.compress_type = zipfile.ZIP_DEFLATED
            for field, value in fields.items():
                setattr(info, field, value)
            archive.writestr(info, data)


@pytest.mark.parametrize(
    "fields", [{}, {"create_system": 0}, {"external_attr": 0o644 << 16, "internal_attr": 1}, {"comment": b"mine"}]
)
def test_what_other_programs_write_is_read(fields: dict[str, Any]) -> None:
    stream = io.BytesIO()
    zipped(stream, **fields)
    check(read(stream.getvalue()))
    if fields:
        with pytest.raises(ValueError, match="a directory that numpy did not write"):
            read(stream.getvalue(), as_written=True)


def test_what_was_written_into_a_pipe_is_read() -> None:
    pipe = Pipe()
    zipped(pipe)  # type: ignore[arg-type]
    assert pipe.data[6] & 8  # or this would prove nothing
    check(read(pipe.data))


WHOLE = written()
DIRECTORY, END = WHOLE.index(b"PK\1\2"), len(WHOLE) - 22
FIRST_DATA = 30 + len("a.npy") + 20


def with_end(**fields: int) -> bytes:
    """Numpy's file with another end."""
    names = ("disk", "first", "here", "count", "size", "start", "comment")
    said = dict(zip(names, struct.unpack("<4H2LH", WHOLE[END + 4 :]))) | fields
    return WHOLE[: END + 4] + struct.pack("<4H2LH", *(said[name] for name in names))


def moved(by: int, data: bytes) -> bytes:
    """So many bytes in front of the file, of which its directory knows."""
    with_offsets = bytearray(with_end(start=DIRECTORY + by)[DIRECTORY:])
    at = 0
    while with_offsets[at : at + 4] == b"PK\1\2":
        (offset,) = struct.unpack_from("<L", with_offsets, at + 42)
        struct.pack_into("<L", with_offsets, at + 42, offset + by)
        at += 46 + sum(struct.unpack_from("<3H", with_offsets, at + 28))
    return data + WHOLE[:DIRECTORY] + bytes(with_offsets)


def changed(at: int, data: bytes) -> bytes:
    return WHOLE[:at] + data + WHOLE[at + len(data) :]


def test_the_unchanged_parts_below_make_a_whole_file() -> None:
    check(read(with_end()))
    check(read(moved(0, b"")))
    with zipfile.ZipFile(io.BytesIO(moved(9, b"something"))) as archive:
        assert archive.testzip() is None  # zipfile does not mind


HOSTILE = {
    "nothing": b"",
    "an end alone": WHOLE[END:],
    "something in front": b"something" + WHOLE,
    "something in front, told": moved(9, b"something"),
    "something before the directory": WHOLE[:DIRECTORY] + b"x" + with_end(start=DIRECTORY + 1)[DIRECTORY:],
    "something behind it": WHOLE + b"x",
    "a comment": with_end(comment=1) + b"x",
    "another disk": with_end(disk=1),
    "a first disk": with_end(first=1),
    "fewer entries": with_end(count=2, here=2),
    "counts that differ": with_end(here=2),
    "a directory that is longer": with_end(size=END - DIRECTORY + 46, start=DIRECTORY - 46),
    "a directory that is cut": with_end(size=END - DIRECTORY - 9, start=DIRECTORY + 9),
    "a directory beyond the file": with_end(start=1 << 31),
    "no entry": changed(0, b"PK\3\5"),
    "another name": changed(30, b"z"),
    "another method": changed(8, b"\0"),
    "another date": changed(12, b"\x22"),
    "another CRC": changed(14, b"\1\2\3\4"),
    "another size": changed(18, struct.pack("<2L", 5, 5)),
    "another 64-bit size": changed(FIRST_DATA - 16, struct.pack("<Q", 5)),
    "a name that is longer": changed(26, b"\6"),
    "a name that is longer there": changed(DIRECTORY + 28, b"\6"),
    "a name without end there": changed(DIRECTORY + 28, b"\xff\xff"),
    "another offset": changed(DIRECTORY + 42, b"\1"),
    "an offset beyond the file": changed(DIRECTORY + 42, b"\xff\xff\xff\x7f"),
    "an encrypted entry": changed(6, b"\1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_agree_with_itself_is_refused(name: str) -> None:
    with pytest.raises((ValueError, struct.error, zipfile.BadZipFile)):
        read(HOSTILE[name])
