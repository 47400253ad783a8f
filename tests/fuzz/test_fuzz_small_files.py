"""Classes files, split files, SBD's .mat files, journals, cached embeddings: any bytes; what is right is read."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat  # type: ignore[import-untyped]

from clip import text_cache
from common.errors import UserError
from dataset.classes_file import MAX_NAME, read_classes
from dataset.mask_values import parse_mask_values
from dataset.split_file import read_references, read_split
from pipeline.files.tag_journal import Journal
from tests.fuzz.support import SPEC, any_bytes, check_ids, check_message, read_or_refuse
from voc12.sbd import read_source

pytestmark = pytest.mark.slow

# --- classes --------------------------------------------------------------------------------------

CLASSES = [
    b"dog  # any\ntraffic light: traffic light; stop-light\n[background]\ngrass\ncloudy sky\n",
    "\ufeff# klassen\r\nK\u00e4se\r\nbrot: brot; laib\r\n".encode(),
]
LINE = st.text(st.sampled_from("ab :;#[],\"'0\t\x1b\u2028ſßs"), max_size=9) | st.sampled_from(("[background]", "dog"))
LINES = st.lists(LINE, max_size=8).map(lambda lines: "\n".join(lines).encode())


@given(any_bytes(*CLASSES) | LINES)
def test_any_classes_file(data: bytes) -> None:
    spec = read_or_refuse(read_classes, Path("classes.txt"), data)
    if spec is None:
        return
    assert 0 < len(spec.classes) < 255 and len(set(map(str.casefold, spec.classes))) == len(spec.classes)
    assert max(map(len, spec.classes)) <= MAX_NAME and not any(set(',;"') & set(name) for name in spec.classes)
    for prompt in (prompt for group in (*spec.prompts, spec.background_prompts) for prompt in group):
        assert prompt and prompt == " ".join(prompt.split())


PROMPT = st.text("ab cü-", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)


@given(st.dictionaries(PROMPT, st.lists(PROMPT, min_size=1, max_size=3), min_size=1, max_size=5),
       st.lists(PROMPT, min_size=1, max_size=4, unique=True))  # fmt: skip
def test_a_right_classes_file_is_read(groups: dict[str, list[str]], background: list[str]) -> None:
    lines = [f"{name}: {'; '.join(prompts)}" for name, prompts in groups.items()]
    data = "\n".join([*lines, "[background]", *background]).encode()
    spec = read_or_refuse(read_classes, Path("classes.txt"), data)
    assert spec is not None and spec.classes == tuple(groups) and spec.background_prompts == tuple(background)
    assert spec.prompts == tuple(map(tuple, groups.values()))


# --- split files ----------------------------------------------------------------------------------

SPLITS = [b"2007_000032\n2007_000039\n", b"sub/a 1\r\nb -1\r\n", "\ufeffgrün\n# so\nmy photo.jpg\n".encode(), b"a\rb\r",
          b"/JPEGImages/a.jpg /SegmentationClass/a.png\n", b"C:\\x\\b.jpg\n../c.png\n",
              b"a -1\nb 0\nc 1\n"]  # fmt: skip


@given(any_bytes(*SPLITS))
def test_any_split(data: bytes) -> None:
    for read in (read_split, read_references):
        ids = read_or_refuse(read, Path("s.txt"), data)
        assert ids is None or ids
        check_ids(ids or [])


NAMES = st.lists(st.text("aü7_-", min_size=1, max_size=6), min_size=1, max_size=3).map("/".join)


@given(st.lists(NAMES, min_size=1, max_size=9, unique=True), st.sampled_from(("\n", "\r\n", "\r")))
def test_a_right_split_is_read(ids: list[str], end: str) -> None:
    Path("s.txt").write_bytes(end.join(ids).encode())
    assert read_split(Path("s.txt")) == read_references(Path("s.txt")) == ids


# --- what values of masks stand for ----------------------------------------------------------------

VALUES = [b"0 background\n255 dog\n", b"# x\n#ff0000 dog\n0,128,0 traffic light\n", b"dog:255,0,0::\nvoid:0,0,0::\n"]


@given(any_bytes(*VALUES))
def test_any_file_of_mask_values(data: bytes) -> None:
    values = read_or_refuse(lambda path: parse_mask_values([str(path)], SPEC, {}), Path("v.txt"), data)
    if values is not None:
        assert {value for _, value in (*values.grey, *values.colours)} <= {0, 1, 2, 3, 255}


ITEMS = ("0,255=0,1", "255=dog", "#ff0000=person", "=", "voc", "x" * 300, "9" * 400 + "=1", "1=\x1b", "0=-1", "\0=1")


@given(st.lists(st.sampled_from(ITEMS)))
def test_any_mask_values(texts: list[str]) -> None:
    try:
        parse_mask_values(texts, SPEC, {"voc": ("dog", "cat")})
    except UserError as error:
        check_message(str(error))


# --- SBD's .mat files -----------------------------------------------------------------------------


def mat(labels: Any, compress: bool = True) -> bytes:
    stream = io.BytesIO()
    fields = {"Boundaries": np.zeros((2, 3)), "Segmentation": labels, "CategoriesPresent": np.unique(labels)}
    savemat(stream, {"before": np.eye(2), "GTcls": fields}, do_compression=compress)
    return stream.getvalue()


MATS = [mat(np.array([[0, 20, 1, 4], [255, 15, 0, 7]], np.uint8)), b"MATLAB 7.3 MAT-file" * 9]


@given(any_bytes(*MATS))
def test_any_mat_file(data: bytes) -> None:
    labels = read_or_refuse(read_source, Path("x.mat"), data)
    if labels is not None:
        assert labels.dtype == np.uint8 and labels.ndim == 2 and ((labels <= 20) | (labels == 255)).all()


@pytest.mark.parametrize("kind", "u1 i2 u4 i8 f4 f8".split())
@pytest.mark.parametrize("compress", [True, False])
def test_a_right_mat_file_is_read(kind: str, compress: bool) -> None:
    labels = np.array([[0, 20, 1], [3, 15, 7]], kind)
    np.testing.assert_array_equal(read_or_refuse(read_source, Path("x.mat"), mat(labels, compress)), labels)


def test_a_mat_file_that_unpacks_to_a_gigabyte_is_refused() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)  # a block of it unpacks to a megabyte
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    packed = zlib.compress(b"", 9)[:2] + 1024 * block + deflate.flush()
    data = MATS[0][:128] + struct.pack("<II", 15, len(packed)) + packed
    assert read_or_refuse(read_source, Path("x.mat"), data) is None


# --- what this project keeps for itself ------------------------------------------------------------

RECORD = json.dumps({"model": "tiny"})
JOURNAL = f'{RECORD}\n["a", "x", [0.5, 1.0]]\n["sub/b c", "y", [0.25, 0.0]]\n'.encode()
ODD = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from((10**400, [[1], [2, 3]], {}, [1]))
ROWS = st.lists(st.lists(ODD, max_size=3), max_size=4)


@given(any_bytes(JOURNAL) | ROWS.map(lambda rows: "\n".join([RECORD, *map(json.dumps, rows), ""]).encode()))
def test_any_journal(data: bytes) -> None:
    found = read_or_refuse(lambda path: Journal(path, RECORD).read(), Path("tags.txt.part"), data)
    assert found is not None
    for key, entry in found.items():
        assert isinstance(key, str) and isinstance(entry.source, str)
        assert entry.scores.dtype == np.float32 and entry.scores.ndim == 1


def npz(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, embeddings=array)
    return stream.getvalue()


KEPT = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
OTHERS = [npz(KEPT[:2]), npz(KEPT.astype(np.float64)), npz(np.array([[{}] * 8] * 3, object)), npz(KEPT)[60:]]


@given(any_bytes(npz(KEPT), *OTHERS) | st.sampled_from(OTHERS))
def test_any_cache_of_embeddings_is_what_was_put_in_or_counts_as_none(data: bytes) -> None:
    found = read_or_refuse(lambda path: text_cache._read(path, (3, 8)), Path("x.npz"), data)
    assert found is None or (found.dtype == np.float32 and np.array_equal(found, KEPT))  # its checksum holds
    if data == npz(KEPT):
        assert found is not None
