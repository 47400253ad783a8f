"""SBD's .mat files: any bytes, inside the compressed part too, and what scipy writes is read as scipy reads it."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat  # type: ignore[import-untyped]

from tests.fuzz.support import any_bytes, mutated, read_or_refuse
from voc12.sbd import read_sbd


def written(labels: Any, compress: bool, **more: Any) -> bytes:
    stream = io.BytesIO()
    fields = {"Boundaries": np.zeros((2, 3)), "Segmentation": labels, "CategoriesPresent": np.unique(labels)}
    savemat(stream, {**more, "GTcls": fields}, do_compression=compress)
    return stream.getvalue()


LABELS = np.array([[0, 20, 1, 4], [255, 15, 0, 7], [1, 1, 2, 3]], np.uint8)
WHOLE = [written(LABELS, False), written(LABELS, True), written(LABELS[:1, :2], False), b"MATLAB 7.3 MAT-file" * 9]


def check(data: bytes) -> np.ndarray | None:
    labels = read_or_refuse(read_sbd, Path("x.mat"), data)
    if labels is not None:
        assert labels.dtype == np.uint8 and labels.ndim == 2 and labels.size
        assert ((labels <= 20) | (labels == 255)).all()
    return labels


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(mutated(WHOLE[0][128:]))
def test_any_compressed_bytes(body: bytes) -> None:
    """The checksum of compressed data would otherwise keep most mutations from getting far."""
    packed = zlib.compress(body)
    check(WHOLE[0][:128] + struct.pack("<II", 15, len(packed)) + packed)


@given(
    st.integers(1, 5), st.integers(1, 5), st.sampled_from("u1 i1 u2 i2 u4 i4 u8 i8".split()), st.booleans(), st.data()
)
def test_what_scipy_writes_is_read_as_scipy_reads_it(
    h: int, w: int, kind: str, compress: bool, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.integers(0, 20), min_size=h * w, max_size=h * w))
    whole = written(np.array(values, kind).reshape(h, w), compress, before=np.eye(2), words="x" * 5)
    expected = loadmat(io.BytesIO(whole))["GTcls"]["Segmentation"][0, 0]
    np.testing.assert_array_equal(check(whole), expected)


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(flags: int, sides: tuple[int, ...], name: bytes, *rest: bytes) -> bytes:
    start = element(6, struct.pack("<II", flags, 0)) + element(5, struct.pack(f"<{len(sides)}i", *sides))
    return element(14, start + element(1, name) + b"".join(rest))


def gtcls(field: bytes) -> bytes:
    return matrix(
        2, (1, 1), b"GTcls", element(5, struct.pack("<i", 32)), element(1, b"Segmentation".ljust(32, b"\0")), field
    )


def nested(depth: int) -> bytes:
    """Cells in cells, which a reader that recurses would follow until its stack ends."""
    inner = b""
    for _ in range(depth):
        inner = matrix(1, (1, 1), b"", inner)
    return inner


def compressed(body: bytes) -> bytes:
    packed = zlib.compress(body, 9)
    return struct.pack("<II", 15, len(packed)) + packed


NUMBERS = element(2, bytes(6))
HOSTILE = {
    "sides that lie": gtcls(matrix(9, (1 << 30, 1 << 30), b"", NUMBERS)),
    "sides below zero": gtcls(matrix(9, (-2, -3), b"", NUMBERS)),
    "sides that are guessed": gtcls(matrix(9, (-1, 3), b"", NUMBERS)),
    "no sides": gtcls(matrix(9, (), b"", element(2, b"\1"))),
    "no pixels": gtcls(matrix(9, (0, 3), b"", element(2, b""))),
    "an unknown type": gtcls(matrix(9, (2, 3), b"", element(99, bytes(6)))),
    "cells in cells": gtcls(nested(300)),
    "cells in cells before it": nested(300) + gtcls(matrix(9, (2, 3), b"", NUMBERS))[:-8],
    "no end": gtcls(matrix(9, (2, 3), b"", struct.pack("<II", 2, 0xFFFFFFFF))),
    "a bomb": compressed(bytes(1 << 30)),
    "a bomb of labels": compressed(gtcls(matrix(9, (1 << 13, 1 << 13), b"", element(2, bytes(1 << 26))))),
    "compressed twice": compressed(compressed(WHOLE[0][128:])),
    "not a struct": matrix(9, (2, 3), b"GTcls", NUMBERS),
    "another field": gtcls(matrix(9, (2, 3), b"", NUMBERS)).replace(b"Segmentation", b"Segmentations"[1:]),
    "no fields": matrix(2, (1, 1), b"GTcls", element(5, struct.pack("<i", 0)), element(1, b"")),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    assert check(WHOLE[0][:128] + HOSTILE[name]) is None


def test_the_parts_above_make_a_whole_file() -> None:
    """Otherwise the test above would prove nothing."""
    whole = WHOLE[0][:128] + nested(3) + compressed(gtcls(matrix(9, (2, 3), b"", element(2, bytes(range(6))))))
    np.testing.assert_array_equal(check(whole), [[0, 2, 4], [1, 3, 5]])
