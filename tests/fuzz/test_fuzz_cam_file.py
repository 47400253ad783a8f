"""CAM files: any bytes, any arrays, any bytes inside a whole archive; what is right is read."""

import json
import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.images import MOST_PIXELS
from pipeline.files.cam_file import StoredMaps, load_cams, read_made_by, read_maps, read_record, save_cams
from pipeline.steps.maps import Cams
from tests.fuzz.support import any_bytes, mutated, read_or_refuse

pytestmark = pytest.mark.slow

NUM_CLASSES = 20


def whole_files() -> list[bytes]:
    """The default form, the one at full size, and the reference's."""
    maps, folder = (np.arange(12, dtype=np.float32) / 11).reshape(2, 2, 3), BytesIO()
    made_by = {"format": 2, "model": "ä" * 8, "scales": [1.0]}
    arrays = {"keys": np.array([3, 14]), "size": np.array([5, 7], np.int32), "made_by": np.array(json.dumps(made_by))}
    np.savez_compressed(folder, cam=maps.astype(np.float16), attn=maps.astype(np.float16), **arrays)
    other, last = BytesIO(), BytesIO()
    np.savez_compressed(other, highres=maps.astype(np.float16), attn_highres=maps, keys=arrays["keys"])
    np.savez(last, keys=np.zeros(0, np.int64), highres=np.zeros((0, 4, 4)), attn_highres=np.zeros((0, 4, 4), ">f4"))
    return [folder.getvalue(), other.getvalue(), last.getvalue()]


WHOLE = whole_files()


def entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return stream.getvalue()


def check(data: bytes) -> StoredMaps | None:
    """Every reader, whatever the bytes; returns the maps before the affinity where they can be read."""
    path = Path("a.npz")
    made_by = read_or_refuse(read_made_by, path, data)
    assert made_by is None or isinstance(made_by, dict)
    record = read_or_refuse(read_record, path, data)
    assert record is None or all(type(key) is int for key in record["keys"])
    for cam_type in ("attn_highres", "highres"):
        stored = read_or_refuse(lambda path, kind=cam_type: read_maps(path, kind, NUM_CLASSES), path, data)
        if stored is not None:
            check_maps(stored)
            if math.prod(stored.size) * len(stored.keys) < 1 << 20:
                full = read_or_refuse(lambda path, kind=cam_type: load_cams(path, kind, NUM_CLASSES), path, data)
                assert full is not None and full[1].shape == (len(stored.keys), *stored.size)
    return stored


def check_maps(stored: StoredMaps) -> None:
    keys, maps = stored.keys, stored.maps
    assert keys.dtype == np.int64 and len(set(keys.tolist())) == len(keys) == len(maps)
    assert all(0 <= key < NUM_CLASSES for key in keys)
    assert maps.ndim == 3 and np.issubdtype(maps.dtype, np.floating) and np.isfinite(maps).all()
    assert stored.kind == "logit" or maps.size == 0 or -0.01 < maps.min() <= maps.max() < 1.01
    assert 1 <= math.prod(stored.size) <= MOST_PIXELS and all(side >= 1 for side in stored.size)
    assert maps.shape[1] <= stored.size[0] and maps.shape[2] <= stored.size[1]


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(st.sampled_from(WHOLE), st.data())
def test_any_bytes_of_an_array_in_a_whole_archive(whole: bytes, data: st.DataObject) -> None:
    """Wounds that no checksum tells."""
    parts = entries(whole)
    name = data.draw(st.sampled_from(sorted(parts)))
    parts[name] = data.draw(mutated(parts[name], *(part for one in WHOLE for part in entries(one).values())))
    check(zipped(parts))


SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))
UNIT = st.floats(0, 1, width=16)


@given(st.sets(st.integers(0, NUM_CLASSES - 1), max_size=3), SIDES, st.data(), st.booleans())
def test_what_is_written_is_read(keys: set[int], size: tuple[int, int], data: st.DataObject, full: bool) -> None:
    shape = (len(keys), *(data.draw(st.integers(1, side)) for side in size))
    maps: Any = data.draw(arrays.arrays(np.float32, shape, elements=UNIT))
    save_cams(Path("b.npz"), Cams(np.array(sorted(keys), np.int64), maps, maps, size), {"a": 1}, full)
    stored = check(Path("b.npz").read_bytes())
    assert stored is not None and stored.size == size and stored.keys.tolist() == sorted(keys)
    assert full or np.array_equal(stored.maps, maps)
