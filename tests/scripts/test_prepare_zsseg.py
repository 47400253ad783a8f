"""scripts/prepare_zsseg.py: masks against the split's numbers, repeats, mistakes; and scripts/pseudo_labels.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.parity.parts import Place
from benchmarks.parity.zsseg import data as parity
from dataset.mask_png import read_mask
from pipeline.files.cam_file import save_cams
from pipeline.steps.maps import Cams
from tests.support import SHARED, Command, tree

SPLITS = ("--split", "train=train.txt", "val=val.txt")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VOC's annotations: a has seen and unseen classes, b seen ones, c unseen ones, d none."""
    (tmp_path / "raw").mkdir()
    for name, values in {"a": (0, 15, 16, 255), "b": (3, 0), "c": (20, 17), "d": (0, 255)}.items():
        mask = np.resize(np.array(values, np.uint8), (4, 5))
        Image.fromarray(mask).save(tmp_path / f"raw/{name}.png")
    (tmp_path / "train.txt").write_text("a\nb\nd\n")
    (tmp_path / "val.txt").write_text("c\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw"


def test_masks_of_all_of_the_seen_and_of_the_unseen(raw: Path, tmp_path: Path, command: Command) -> None:
    ended = command("scripts.prepare_zsseg", "voc20", "--raw", raw, *SPLITS, "--out", "out")
    assert ended.code == 0 and "4 in" in ended.out, ended.err
    masks = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert masks == {
        "train/a.png", "train/b.png", "train_base/a.png", "train_base/b.png", "train_novel/a.png",
        "val/c.png", "val_novel/c.png",
    }  # fmt: skip
    found = {name: read_mask(tmp_path / "out" / name)[0, :4].tolist() for name in masks}
    assert found["train/a.png"] == [255, 14, 15, 255] and found["train_base/a.png"] == [255, 14, 255, 255]
    assert found["train_novel/a.png"] == [255, 255, 0, 255] and found["val_novel/c.png"] == [4, 1, 4, 1]
    counts = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert counts == {
        "train_label_count.json": {"a.png": [14, 15], "b.png": [2]},
        "train_base_label_count.json": {"a.png": [14], "b.png": [2]},
        "train_novel_label_count.json": {"a.png": [0]},
        "val_label_count.json": {"c.png": [16, 19]},
        "val_base_label_count.json": {},
        "val_novel_label_count.json": {"c.png": [1, 4]},
    }


def test_a_repeat_writes_what_is_missing_and_follows_replaced_annotations(
    raw: Path, tmp_path: Path, command: Command
) -> None:
    run = ("scripts.prepare_zsseg", "voc20", "--raw", raw, *SPLITS, "--out", "out")
    assert command(*run).code == 0
    before = tree(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    (tmp_path / "out/train/a.png").unlink()
    assert command(*run).code == 0 and tree(tmp_path / "out") == before
    kept = {path for path in times if path.stat().st_mtime_ns == times[path]}
    assert len(kept) == len(times) - 1
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(raw / "b.png")
    assert command(*run).code == 0
    assert not (tmp_path / "out/train/b.png").exists() and not (tmp_path / "out/train_base/b.png").exists()
    assert "b.png" not in json.loads((tmp_path / "out/train_label_count.json").read_text())


def test_mistakes(raw: Path, tmp_path: Path, command: Command) -> None:
    for more, said in (
        (("--out", "out"), "no folders in it; name the splits"),
        ((*SPLITS, "--out", raw / "in"), "inside --raw"),
        (("--split", "train", "--out", "out"), "expected NAME=FILE"),
        (("--split", "train=gone.txt", "--out", "out"), "gone.txt"),
    ):
        ended = command("scripts.prepare_zsseg", "voc20", "--raw", raw, *more)
        assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1, ended.err
    (raw / "a.png").write_bytes(b"no picture")
    (tmp_path / "train.txt").write_text("a\nb\nmissing\n")
    ended = command("scripts.prepare_zsseg", "voc20", "--raw", raw, *SPLITS, "--out", "out")
    assert ended.code == 3 and "a.png" in ended.err and "missing.png" in ended.err
    assert (tmp_path / "out/train/b.png").exists()


def test_coco_has_a_folder_a_split_and_numbers_without_class(tmp_path: Path, command: Command) -> None:
    """Raw 11 is no class; 20 (cow) and 171 (wall-concrete) are unseen, 12 is the twelfth class."""
    for part in ("train2017", "val2017"):
        (tmp_path / "raw" / part).mkdir(parents=True)
        Image.fromarray(np.array([[0, 11, 12, 20, 171, 255]], np.uint8)).save(tmp_path / "raw" / part / "1.png")
    ended = command("scripts.prepare_zsseg", "cocostuff", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    found = {path.parent.name: read_mask(path)[0].tolist() for path in (tmp_path / "out").rglob("*.png")}
    assert found["val2017"] == [0, 255, 11, 19, 160, 255] and found["train2017_novel"] == [255, 255, 255, 0, 14, 255]
    assert found["train2017_base"] == [0, 255, 11, 255, 255, 255] and len(found) == 6


@pytest.fixture
def cams(raw: Path, tmp_path: Path) -> Path:
    """Maps of all classes for a and b; c has maps of two classes only."""
    rng = np.random.default_rng(0)
    for name in "abc":
        keys = np.arange(20 if name != "c" else 2)[::-1].copy()
        maps = rng.normal(size=(len(keys), 4, 5)).astype(np.float16).astype(np.float32)
        save_cams(tmp_path / f"cams/{name}.npz", Cams(keys, maps, maps, (4, 5)), {"kind": "logit"})
        Image.fromarray(np.resize(np.array([0, 14, 15, 255], np.uint8), (4, 5))).save(tmp_path / f"raw/{name}.png")
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    return tmp_path / "cams"


@pytest.mark.parametrize("rejected", ["255", "num_classes"])
def test_pseudo_labels_keep_what_is_labelled(rejected: str, cams: Path, tmp_path: Path, command: Command) -> None:
    data = ("--dataset", "voc20", "--img_root", tmp_path / "JPEGImages", "--split_file", "ids.txt")
    (tmp_path / "JPEGImages").mkdir()
    run = ("scripts.pseudo_labels", *data, "--cam_out_dir", cams, "--seen_masks", "raw", "--rejected", rejected)
    ended = command(*run, "--out", "pseudo", "--threshold", "0.1")
    assert ended.code == 3 and "maps of 2 classes of 20; make them with --labels all" in ended.err
    with np.load(cams / "a.npz") as arrays:
        scores = arrays["cam"][np.argsort(arrays["keys"])].astype(np.float64)
    shares = np.exp(scores) / np.exp(scores).sum(axis=0)
    best, truth = shares[15:].argmax(axis=0) + 15, np.resize(np.array([0, 14, 15, 255]), (4, 5))
    taken = np.where(shares[15:].max(axis=0) < 0.1, 255 if rejected == "255" else 20, best)
    found = read_mask(tmp_path / "pseudo/a.png")
    assert np.array_equal(found, np.where(truth < 15, truth, taken)) and (found > 19).any() and (found == 14).any()
    other = command(*run, "--out", "pseudo", "--threshold", "0.2")
    assert other.code == 2 and "pass another --out, or --overwrite" in other.err


def test_pseudo_labels_of_masks(cams: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "masks").mkdir()
    for name, values in {"a": (17, 3, 19, 3), "b": (16,)}.items():  # b is of another size
        mask = np.resize(np.array(values, np.uint8), (4, len(values) + 1))
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    data = ("--dataset", "voc20", "--img_root", tmp_path / "JPEGImages", "--split_file", "ids.txt", "--out", "pseudo")
    run = ("scripts.pseudo_labels", *data, "--seen_masks", "raw", "--masks", "masks")
    ended = command(*run)
    assert ended.code == 3 and "b.png: size (4, 2)" in ended.err and "c.png: no " in ended.err, ended.err
    guesses, truth = np.resize(np.array([17, 3, 19, 3]), (4, 5)), np.resize(np.array([0, 14, 15, 255]), (4, 5))
    expected = np.where(truth < 15, truth, np.where(guesses < 15, 255, guesses))
    assert np.array_equal(read_mask(tmp_path / "pseudo/a.png"), expected)
    assert command(*run, "--threshold", "0.1").err.startswith("error: --masks: ")
    other = command(*run, "--rejected", "num_classes")  # in a folder of masks with 255
    assert other.code == 2 and "pass another --out, or --overwrite" in other.err
    (tmp_path / "foreign").mkdir()
    Image.fromarray(np.full((4, 5), 99, np.uint8)).save(tmp_path / "foreign/a.png")
    foreign = command("scripts.pseudo_labels", *data, "--seen_masks", "raw", "--masks", "foreign", "--overwrite")
    assert "a.png: holds label 99; expected labels 0 to 19" in foreign.err and "ground truth" not in foreign.err
    for read in ("masks", "raw"):
        own = command(*run, "--out", tmp_path / read, "--overwrite")
        assert own.code == 2 and "the masks there are read" in own.err


@pytest.mark.parametrize("part", list(parity.PARTS))
def test_the_references_numbers(part: str, golden: Path, voc_mini: Path) -> None:
    place = Place(SHARED / "golden_zsseg", voc_mini, golden / "clip.pt")
    rows = list(parity.PARTS[part].rows(place))
    assert rows and all(row.agrees for row in rows), rows
