"""SBD's .mat files, which are compressed: any damage is refused, and what scipy writes is read as it was."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat  # type: ignore[import-untyped]

from tests.fuzz.support import any_bytes, read_or_refuse
from voc12.sbd import read_source


def written(labels: Any, compress: bool = True, **more: Any) -> bytes:
    stream = io.BytesIO()
    fields = {"Boundaries": np.zeros((2, 3)), "Segmentation": labels, "CategoriesPresent": np.unique(labels)}
    savemat(stream, {**more, "GTcls": fields}, do_compression=compress)
    return stream.getvalue()


LABELS = np.array([[0, 20, 1, 4], [255, 15, 0, 7], [1, 1, 2, 3]], np.uint8)
WHOLE = [written(LABELS), written(LABELS[:1, :2]), b"MATLAB 7.3 MAT-file" * 9]


def check(data: bytes) -> np.ndarray | None:
    labels = read_or_refuse(read_source, Path("x.mat"), data)
    if labels is not None:
        assert labels.dtype == np.uint8 and labels.ndim == 2 and labels.size
        assert ((labels <= 20) | (labels == 255)).all()
    return labels


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    check(data)


KINDS = st.sampled_from("u1 i1 u2 i2 u4 i4 u8 i8 f4 f8".split())


@given(st.integers(1, 5), st.integers(1, 5), KINDS, st.booleans(), st.data())
def test_what_scipy_writes_is_read(h: int, w: int, kind: str, compress: bool, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 20), min_size=h * w, max_size=h * w))
    labels = np.array(values, kind).reshape(h, w)
    np.testing.assert_array_equal(check(written(labels, compress, before=np.eye(2), words="x" * 5)), labels)


@pytest.mark.parametrize("body", [bytes(1 << 30), WHOLE[0][128:]], ids=["a bomb", "compressed twice"])
def test_compressed_data_without_measure_are_refused(body: bytes) -> None:
    packed = zlib.compress(body, 9)
    assert check(WHOLE[0][:128] + struct.pack("<II", 15, len(packed)) + packed) is None
