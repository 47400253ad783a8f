"""CAM files: both forms come back, the same input gives the same bytes, damage of any kind is named."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from pipeline.maps import Cams
from pipeline.storage import load_cams, read_arrays, read_made_by, save_cams
from tests.support import bilinear

SIZE = (21, 13)
MADE_BY = {"model": "abc", "scales": [1.0], "flip": False}


def example(keys: tuple[int, ...] = (14, 3)) -> Cams:
    generator = np.random.default_rng(0)
    maps = (generator.random((2, len(keys), 3, 2), np.float32)).astype(np.float16).astype(np.float32)
    return Cams(np.array(keys, np.int64), maps[0], maps[1], SIZE)


@pytest.mark.parametrize("keys", [(14, 3), (7,), ()])
@pytest.mark.parametrize("full_size", [False, True])
def test_maps_come_back_at_full_size(tmp_path: Path, keys: tuple[int, ...], full_size: bool) -> None:
    cams, path = example(keys), tmp_path / "deep" / "a.npz"
    save_cams(path, cams, MADE_BY, full_size)
    for cam_type, maps in (("highres", cams.cam), ("attn_highres", cams.attn)):
        found_keys, found = load_cams(path, cam_type, 20)
        assert found_keys.tolist() == list(keys) and found_keys.dtype == np.int64
        assert found.shape == (len(keys), *SIZE) and found.dtype == np.float32
        assert np.allclose(found, np.array([bilinear(one, SIZE) for one in maps]).reshape(found.shape), atol=5e-4)
    assert read_made_by(path) == MADE_BY


@pytest.mark.parametrize(
    ("full_size", "arrays"),
    [
        (False, {"keys": (2,), "cam": (2, 3, 2), "attn": (2, 3, 2), "size": (2,), "made_by": ()}),
        (True, {"keys": (2,), "highres": (2, 21, 13), "attn_highres": (2, 21, 13), "made_by": ()}),
    ],
)
def test_what_a_file_holds(tmp_path: Path, full_size: bool, arrays: dict[str, tuple]) -> None:
    save_cams(tmp_path / "a.npz", example(), MADE_BY, full_size)
    found = dict(np.load(tmp_path / "a.npz", allow_pickle=False))
    assert {name: array.shape for name, array in found.items()} == arrays
    halves = [name for name, array in found.items() if array.dtype == np.float16]
    assert halves == [name for name, shape in arrays.items() if len(shape) == 3]


def test_same_maps_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_cams(tmp_path / "a.npz", example(), MADE_BY)
    monkeypatch.setattr("time.time", lambda: 2e9)  # another day
    save_cams(tmp_path / "b.npz", example(), dict(reversed(MADE_BY.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_references_files_can_be_read(tmp_path: Path) -> None:
    maps = np.random.default_rng(1).random((2, 2, 4, 5)).astype(np.float16)
    np.savez(tmp_path / "a.npz", keys=np.array([3, 1]), highres=maps[0], attn_highres=maps[1])
    assert np.array_equal(load_cams(tmp_path / "a.npz", "highres", 20)[1], maps[0])
    assert np.array_equal(load_cams(tmp_path / "a.npz", "attn_highres", 20)[1], maps[1])
    assert read_made_by(tmp_path / "a.npz") == {}


ONE = np.ones((1, 2, 2), np.float16)
GRID = {"keys": np.array([0]), "cam": ONE, "attn": ONE, "size": np.array([4, 4])}
HOLED = np.array([[[np.nan, 0], [0, 0]]], np.float16)
ENDLESS = np.array([[[np.inf, 0], [0, 0]]], np.float16)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"keys": np.array([20])}, "class index 20 where the data set has 20"),
        ({"keys": np.array([-1])}, "class index -1"),
        ({"keys": np.array([0.5])}, "no class indices"),
        ({"keys": np.array([[0]])}, "no class indices"),
        ({"keys": np.array(0)}, "no class indices"),
        ({"keys": None}, "no class indices"),
        ({"keys": np.array([0, 1])}, "no maps"),
        ({"attn": None}, "no maps"),
        ({"attn": np.ones((2, 2), np.float16)}, "no maps"),
        ({"attn": np.ones((1, 2, 2), np.int64)}, "no maps"),
        ({"attn": np.ones((1, 0, 2), np.float16)}, "no maps"),
        ({"attn": HOLED}, "not finite"),
        ({"attn": ENDLESS}, "not finite"),
        ({"size": None}, "no image `size`"),
        ({"size": np.array([4])}, "no image `size`"),
        ({"size": np.array([0, 4])}, "no image `size`"),
        ({"size": np.array([4.0, 4.0])}, "no image `size`"),
        ({"keys": np.array([{"a": 1}])}, "damaged, or holds something else"),  # a pickled object
        ({"extra": np.array([None])}, "damaged, or holds something else"),
    ],
)
def test_an_unfit_file_is_named(tmp_path: Path, change: dict, complaint: str) -> None:
    arrays = {name: array for name, array in {**GRID, **change}.items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=rf"a\.npz: .*{complaint}"):
        load_cams(tmp_path / "a.npz", "attn_highres", 20)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("form", ["npz", "npy", "pickle"])
def test_a_pickle_is_never_run(tmp_path: Path, form: str) -> None:
    path, array = tmp_path / "a.npz", np.array([Bomb(tmp_path / "executed")], object)
    with path.open("wb") as stream:
        if form == "npz":
            np.savez(stream, keys=array)
        elif form == "npy":
            np.save(stream, array)
        else:
            pickle.dump(array, stream)
    for read in (read_arrays, read_made_by, lambda path: load_cams(path, "highres", 20)):
        with pytest.raises(UserError, match=r"a\.npz") if form != "npz" or read is not read_made_by else _nothing():
            read(path)
    assert not (tmp_path / "executed").exists()


class _nothing:
    """read_made_by does not look at other arrays."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "half", "tail", "array", "folder", "other zip"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    save_cams(path, example(), MADE_BY, full_size=True)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif damage == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"hello\n", "half": whole[: len(whole) // 2], "tail": whole[:-9]}[damage]
        )
    with pytest.raises(UserError, match=r"a\.npz: "):
        load_cams(path, "highres", 20)


@pytest.mark.parametrize("full_size", [False, True])
def test_any_changed_byte_is_harmless_or_named(tmp_path: Path, full_size: bool) -> None:
    """What a bad disk does: every error is a UserError, whichever part of the zip file it hits."""
    path = tmp_path / "a.npz"
    save_cams(path, example(), MADE_BY, full_size)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.choice(len(whole), 150, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(generator.integers(1, 256))]) + whole[place + 1 :])
        try:
            load_cams(path, "highres", 20)
            read_made_by(path)
        except UserError as error:
            refused += 1
            assert str(error).startswith(str(path))
    assert refused > 10


@pytest.mark.parametrize("text", ["{", "not json"])
def test_an_unreadable_record_is_named(tmp_path: Path, text: str) -> None:
    np.savez(tmp_path / "a.npz", **GRID, made_by=np.array(text))
    with pytest.raises(UserError, match=r"a\.npz"):
        read_made_by(tmp_path / "a.npz")


def test_record_is_json_text(tmp_path: Path) -> None:
    save_cams(tmp_path / "a.npz", example(), MADE_BY)
    assert json.loads(str(np.load(tmp_path / "a.npz")["made_by"])) == MADE_BY
