"""CAM files: both forms come back, the same input gives the same bytes, damage of any kind is named."""

import errno
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.files import check_output
from pipeline.files.cam_file import (
    StoredMaps,
    load_cams,
    read_groups,
    read_made_by,
    read_maps,
    read_record,
    save_cams,
)
from pipeline.steps.maps import Cams
from tests.support import bilinear

SIZE = (21, 13)
READERS = (read_record, read_made_by, lambda path: load_cams(path, "attn_highres", 20))
MADE_BY = {"model": "abc", "scales": [1.0], "flip": False}


def example(keys: tuple[int, ...] = (14, 3)) -> Cams:
    generator = np.random.default_rng(0)
    maps = (generator.random((2, len(keys), 3, 2), np.float32)).astype(np.float16).astype(np.float32)
    return Cams(np.array(keys, np.int64), maps[0], maps[1], SIZE)


@pytest.mark.parametrize(("keys", "full_size"), [((14, 3), False), ((), False), ((7,), True), ((), True)])
def test_maps_come_back_at_full_size(tmp_path: Path, keys: tuple[int, ...], full_size: bool) -> None:
    cams, path = example(keys), tmp_path / "deep" / "a.npz"
    save_cams(path, cams, MADE_BY, full_size)
    for cam_type, maps in (("highres", cams.cam), ("attn_highres", cams.attn)):
        found_keys, found = load_cams(path, cam_type, 20)
        assert found_keys.tolist() == list(keys) and found_keys.dtype == np.int64
        assert found.shape == (len(keys), *SIZE) and found.dtype == np.float32
        assert np.allclose(found, np.array([bilinear(one, SIZE) for one in maps]).reshape(found.shape), atol=5e-4)
    assert read_made_by(path) == MADE_BY and read_record(path) == {**MADE_BY, "keys": list(keys)}


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


@pytest.mark.parametrize("full_size", [False, True])
def test_maps_without_affinity_are_kept_once_and_groups_come_back(tmp_path: Path, full_size: bool) -> None:
    path, maps = tmp_path / "a.npz", example().cam * 1e-3 + 0.5  # would be lost in half precision
    groups = np.array([[0, 7], [3, 1], [2, 2]], np.uint8)
    cams = Cams(example().keys, maps, maps, SIZE, groups)
    save_cams(path, cams, {"kind": "score"}, full_size)
    found = dict(np.load(path, allow_pickle=False))
    assert not {"attn", "attn_highres"} & set(found) and found["highres" if full_size else "cam"].dtype == np.float32
    for cam_type in ("highres", "attn_highres"):
        stored = read_maps(path, cam_type, 20)
        assert np.allclose(stored.resized(SIZE), [bilinear(one, SIZE) for one in maps], atol=1e-6)
    assert np.array_equal(read_groups(path), groups)
    save_cams(path, example(), MADE_BY)
    assert read_groups(path) is None and read_record(path)
    np.savez(path, **{**found, "groups": groups.astype(float)})
    with pytest.raises(UserError, match="no groups"):
        read_groups(path)
    np.savez(path, **{**found, "made_by": np.array("{}")})  # a CAM file must have both
    with pytest.raises(UserError, match="no maps `attn`"):
        read_maps(path, "attn_highres", 20)


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
HOLED, ENDLESS = (np.array([[[value, 0], [0, 0]]], np.float16) for value in (np.nan, np.inf))
UNFIT: list[tuple[str, Any, str]] = [  # which array is another, and what is said
    ("keys", np.array([20]), "class index 20 where the data set has 20"),
    ("keys", np.array([-1]), "class index -1"),
    ("keys", np.array([2**64 - 1], np.uint64), "class index 18446744073709551615"),
    ("keys", np.array([0.5]), "no class indices"),
    ("keys", np.array([[0]]), "no class indices"),
    ("keys", np.array(["a"]), "no class indices"),
    ("keys", np.arange(300), "no class indices"),
    ("keys", None, "no class indices"),
    ("keys", np.array([3, 3]), "the same class twice"),
    ("keys", np.array([0, 1]), "no maps"),
    ("keys", np.array([{"a": 1}]), "damaged, or holds something else"),  # a pickled object
    ("attn", None, "no maps"),
    ("attn", np.ones((2, 2), np.float16), "no maps"),
    ("attn", np.ones((2, 2, 2), np.float16), "no maps"),
    ("attn", np.ones((1, 2, 2), np.int64), "no maps"),
    ("attn", np.ones((1, 0, 2), np.float16), "no maps"),
    ("attn", ONE.astype(np.complex64), "no maps"),
    ("attn", np.full((1, 2, 2), "0.5"), "no maps"),
    ("attn", np.zeros((1, 2, 2), [("a", "f4")]), "no maps"),
    ("attn", np.ones((1, 5, 2), np.float16), r"`attn` of \(5, 2\) for an image of \(4, 4\)"),
    ("attn", 1.01 * ONE, "values from 1.01 to 1.01"),
    ("attn", -0.01 * ONE, "values from -0.01 to -0.01"),
    ("attn", HOLED, "not finite"),
    ("attn", ENDLESS, "not finite"),
    ("size", None, "no image `size`"),
    ("size", np.array([4]), "no image `size`"),
    ("size", np.array([0, 4]), "no image `size`"),
    ("size", np.array([4.0, 4.0]), "no image `size`"),
    ("size", np.array([100_000, 100_000]), "no image `size`"),
    ("size", np.array([2**63, 2**63], np.uint64), "no image `size`"),
    ("size", np.array([20_000, 20_000]), "too large to be read at full size"),
    ("made_by", np.array(["{}"]), "a record that is no text"),
    ("made_by", np.array(5), "a record that is no text"),
    ("made_by", np.array('{"kind": "heat"}'), "maps of kind heat"),
    ("made_by", np.array("not json"), "Expecting"),
    ("made_by", np.array("[1]"), "no JSON object"),
    ("made_by", np.array("[" * 200_000), "too deep"),
    ("made_by", np.array('{"a": "' + "x" * (1 << 18) + '"}'), "a record of 262153 characters"),
    ("made_by", np.array('{"a": ' + "9" * 5000 + "}"), "4300 digits"),
]


def test_an_unfit_file_is_named(tmp_path: Path) -> None:
    for name, array, complaint in UNFIT:
        arrays = {**GRID, name: array}
        np.savez(tmp_path / "a.npz", **{key: value for key, value in arrays.items() if value is not None})
        with pytest.raises(UserError, match=rf"a\.npz: .*{complaint}") as caught:
            load_cams(tmp_path / "a.npz", "attn_highres", 20)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_logits_may_have_any_value(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{**GRID, "attn": -30 * ONE, "made_by": np.array('{"kind": "logit"}')})
    assert read_maps(tmp_path / "a.npz", "attn_highres", 20).maps.min() == -30
    heat = load_cams(tmp_path / "a.npz", "attn_highres", 20)[1]
    assert 0 <= heat.min() <= heat.max() <= 1


@pytest.mark.parametrize(("dtype", "order"), [(">f2", "C"), (">f4", "F"), ("<f8", "C")])
def test_other_machines_files_can_be_read(tmp_path: Path, dtype: str, order: Any) -> None:
    maps = (np.arange(12).reshape(2, 2, 3) / 16).astype(dtype, order=order)
    made_by = np.array('{"a": "\u00e4\U0001f600"}').astype(">U20")
    np.savez(tmp_path / "a.npz", keys=np.array([5, 2], ">i4"), attn_highres=maps, highres=maps[::-1], made_by=made_by)
    keys, found = load_cams(tmp_path / "a.npz", "attn_highres", 20)
    assert keys.tolist() == [5, 2] and found.dtype == np.float32 and np.array_equal(found, maps)
    assert np.array_equal(load_cams(tmp_path / "a.npz", "highres", 20)[1], maps[::-1])
    assert read_made_by(tmp_path / "a.npz") == {"a": "ä😀"}


def test_rounding_beyond_the_range_is_tolerated(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{**GRID, "attn": np.array([[[1.0005, -0.0005], [0, 1]]], np.float16)})
    assert load_cams(tmp_path / "a.npz", "attn_highres", 20)[1].max() > 1


# --- at other sizes, and row by row ---------------------------------------------------------------


@pytest.mark.parametrize("full_size", [False, True])
def test_rows_are_those_of_the_whole(tmp_path: Path, full_size: bool) -> None:
    save_cams(tmp_path / "a.npz", example(), MADE_BY, full_size)
    stored, whole = (read(tmp_path / "a.npz", "highres", 20) for read in (read_maps, load_cams))
    assert isinstance(stored, StoredMaps) and stored.size == SIZE
    for rows in (slice(0, 21), slice(0, 1), slice(3, 9), slice(20, 21)):
        assert np.abs(stored.rows(rows) - whole[1][:, rows]).max() < 1e-6


def test_a_smaller_size_comes_straight_from_the_patch_grid(tmp_path: Path) -> None:
    save_cams(tmp_path / "a.npz", example(), MADE_BY)
    found = read_maps(tmp_path / "a.npz", "highres", 20).resized((10, 6))
    assert np.allclose(found, [bilinear(one, (10, 6)) for one in example().cam], atol=1e-3)


def test_a_smaller_size_of_maps_at_full_size_is_made_of_means() -> None:
    maps = np.random.default_rng(0).random((2, 12, 20)).astype(np.float16)
    found = StoredMaps(np.array([1, 2]), maps, (12, 20)).resized((4, 5))
    assert np.allclose(found, maps.astype(float).reshape(2, 4, 3, 5, 4).mean(axis=(2, 4)), atol=1e-3)


def test_maps_of_a_huge_image_are_not_written_at_full_size(tmp_path: Path) -> None:
    maps = np.ones((2, 3, 3), np.float32)
    with pytest.raises(UserError, match=r"a\.npz: maps of 2 x 20000 x 20000 are too large"):
        save_cams(tmp_path / "a.npz", Cams(np.array([1, 2]), maps, maps, (20_000, 20_000)), {}, full_size=True)
    assert not list(tmp_path.iterdir())


# --- files that mean harm -------------------------------------------------------------------------


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
    for read in (read_record, READERS[-1]):
        with pytest.raises(UserError, match=r"a\.npz"):
            read(path)
    with suppress(UserError):  # it reads nothing but the record
        read_made_by(path)
    assert not (tmp_path / "executed").exists()


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


@pytest.mark.slow
def test_any_changed_byte_is_named_or_changes_no_value(tmp_path: Path) -> None:
    """What a bad disk does, at every place of the file: checksums tell it, or it does not matter.

    A directory that is harmed may hide the record: such a file counts as one that does not say how it was made.
    """
    path = tmp_path / "a.npz"
    save_cams(path, example(), MADE_BY)
    whole, readers = path.read_bytes(), (read_record, lambda path: load_cams(path, "highres", 20))
    expected = [{repr(read(path)), repr({"keys": [14, 3]})} for read in readers]
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        for read, right in zip(readers, expected):
            try:
                found = repr(read(path))
            except UserError as error:
                assert str(error).startswith(str(path))
            else:
                assert found in right, place


def npy(descr: str, shape: str, data: bytes) -> bytes:
    """An array file with any header."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + data


def packed(path: Path, entries: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)


KEYS = ("keys.npy", npy("'<i8'", "(1,)", bytes(8)))
ATTN = ("attn_highres.npy", npy("'<f2'", "(1, 2, 2)", bytes(8)))


HARMFUL: dict[str, list[tuple[str, bytes]]] = {
    "too many arrays": [KEYS, ATTN, *((f"more{index}.npy", KEYS[1]) for index in range(20))],
    "too few bytes": [KEYS, ("attn_highres.npy", npy("'<f2'", "(1, 2, 3)", bytes(8)))],
    "an endless shape": [KEYS, ("attn_highres.npy", npy("'<f2'", "(1, 9999999999, 9999999999)", bytes(8)))],
    "a negative shape": [KEYS, ("attn_highres.npy", npy("'<f2'", "(1, -2, -2)", bytes(8)))],
    "a pickle": [KEYS, ("attn_highres.npy", npy("'|O'", "(1, 2, 2)", b"cos\nsystem\n(S'true'\ntR."))],
    "a header too deep": [KEYS, ("attn_highres.npy", npy("'<f2'" + "(" * 9000, "(1, 2, 2)", bytes(8)))],
    "code in the header": [KEYS, ("attn_highres.npy", npy("__import__('os').getcwd()", "(1, 2, 2)", bytes(8)))],
    "an empty entry": [KEYS, ("attn_highres.npy", b"")],
    "no text": [("keys.npy", npy("'<U1'", "(1,)", b"\xff\xff\xff\xff")), ATTN],
}


def test_archives_that_mean_harm_are_refused(tmp_path: Path) -> None:
    packed(tmp_path / "a.npz", [KEYS, ATTN])
    assert load_cams(tmp_path / "a.npz", "attn_highres", 20)[1].tolist() == [[[0, 0], [0, 0]]]
    for name, entries in HARMFUL.items():
        packed(tmp_path / "a.npz", entries)
        try:
            load_cams(tmp_path / "a.npz", "attn_highres", 20)
        except UserError as error:
            assert (
                str(error).startswith(f"{tmp_path / 'a.npz'}: ") and str(error).isprintable() and len(str(error)) < 400
            )
        else:
            raise AssertionError(name)
        with suppress(UserError):
            assert read_record(tmp_path / "a.npz") == {"keys": [0]}


def test_gigabytes_in_a_few_megabytes_are_not_unpacked(tmp_path: Path) -> None:
    """10 GB of zeros, declared as they are; the archive is made of one packed gigabyte's beginning, told to be ten."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = packer.compress(npy("'<f2'", "(1, 50000, 100000)", bytes(1 << 24))) + packer.flush()
    for claimed in (2**32 - 2, 2 << 30):
        write_claim(tmp_path / "b.npz", zeros, claimed)
        tracemalloc.start()
        for read in READERS:
            with pytest.raises(UserError, match="more than 16 arrays or 1024 MiB"):
                read(tmp_path / "b.npz")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
        tracemalloc.stop()


def write_claim(path: Path, data: bytes, claimed: int) -> None:
    """A zip file of one packed array that says to be `claimed` bytes long."""
    name = b"attn_highres.npy"
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(data), claimed, len(name), 0)
    local = b"PK\3\4" + common + name + data
    central = b"PK\1\2" + b"\x14\3" + common + struct.pack("<HHHII", 0, 0, 0, 0o600 << 16, 0) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def test_an_entry_that_unpacks_to_more_than_it_says_is_cut(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = npy("'<f2'", "(1, 2, 2)", bytes(8))
    zeros = packer.compress(data + bytes(1 << 27)) + packer.flush()
    write_claim(tmp_path / "a.npz", zeros, len(data))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.npz: damaged"):  # what was checked is not what lies there
        read_record(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_neither_pipes_nor_devices_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    (tmp_path / "b.npz").symlink_to("/dev/zero")
    for read in READERS:
        for name in ("a.npz", "b.npz"):
            with pytest.raises(UserError, match="a pipe, socket or device"):
                read(tmp_path / name)


def test_what_the_system_refuses_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refuse)
    for read in READERS:
        with pytest.raises(UserError) as caught:
            read(tmp_path / "a.npz")
        assert str(caught.value).startswith(f"{tmp_path / 'a.npz'}: cannot be read (Permission denied); ")


# --- where files may be written -------------------------------------------------------------------


def test_nothing_is_written_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (out / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (out / "away").symlink_to(elsewhere)
    (out / "dangling").symlink_to(tmp_path / "nowhere")
    (out / "within").symlink_to("sub")
    (tmp_path / "linked").symlink_to(out)
    for path, folder in ((out / "away/a.npz", out), (out / "dangling/a", out), (tmp_path / "linked/away/b/a", out)):
        with pytest.raises(UserError, match="a link that leads out of"):
            check_output(path, folder)
    for path in (out / "a.npz", out / "sub/a.npz", out / "within/a.npz", out / "new/deep/a.npz"):
        assert check_output(path, out) == path
    assert check_output(tmp_path / "linked/sub/a.npz", tmp_path / "linked")  # the folder that was named is a link


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.npz").write_bytes(b"kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.npz").symlink_to(tmp_path / "elsewhere.npz")
    save_cams(check_output(tmp_path / "out/a.npz", tmp_path / "out"), example(), MADE_BY)
    assert (tmp_path / "elsewhere.npz").read_bytes() == b"kept" and not (tmp_path / "out/a.npz").is_symlink()
