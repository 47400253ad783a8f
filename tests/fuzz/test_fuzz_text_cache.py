"""The cache of text embeddings: any bytes there are the embeddings that were put in, or count as no file."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from clip import text_cache
from tests.fuzz.support import any_bytes, read_or_refuse

KEPT = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)


def archive(array: np.ndarray, compress: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(stream, embeddings=array)
    return stream.getvalue()


def header(shape: str) -> bytes:
    """An archive whose array says to be of any shape, but has no numbers."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as out:
        out.writestr("embeddings.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    return stream.getvalue()


WHOLE = [archive(KEPT), archive(KEPT, True), archive(KEPT[:2]), archive(KEPT.astype(np.float64))]


def read(path: Path) -> np.ndarray | None:
    return text_cache._read(path, (3, 8))


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    found = read_or_refuse(read, Path("x.npz"), data)
    assert found is None or (found.dtype == np.float32 and np.array_equal(found, KEPT))  # its checksum holds


def test_whole_ones_are_read() -> None:
    for data in WHOLE[:2]:
        np.testing.assert_array_equal(read_or_refuse(read, Path("x.npz"), data), KEPT)


HOSTILE = {
    "a bomb": lambda: archive(np.zeros((1 << 28,), np.uint8), True),
    "a shape that lies": lambda: header("(1099511627776, 8)"),
    "a shape below zero": lambda: header("(-3, 8)"),
    "a shape that is code": lambda: header("__import__('os').mkdir('made')"),
    "a deep shape": lambda: header("(" * 3000),
    "objects": lambda: archive(np.array([[{}] * 8] * 3, object)),
    "a path for a name": lambda: archive(KEPT).replace(b"embeddings.npy", b"../../bedd.npy"),
    "a bare array": lambda: archive(KEPT)[60:],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_count_as_none(name: str) -> None:
    assert read_or_refuse(read, Path("x.npz"), HOSTILE[name]()) is None
