"""scripts/prepare_voc12.py: the split files that are missing, and SBD's .mat files as masks."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from common.errors import UserError
from dataset.mask_png import read_mask
from tests.support import Command
from voc12.sbd import read_source

SETS = Path("ImageSets/Segmentation")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOC2012 with four masks and the official lists but no SegmentationClassAug."""
    root = tmp_path / "VOC2012"
    (root / SETS).mkdir(parents=True)
    (root / SETS / "train.txt").write_text("a\nc\n")
    (root / SETS / "val.txt").write_text("d\nb\n")
    (root / SETS / "trainval.txt").write_text("a\nb\nc\nd\n")
    (root / "SegmentationClass").mkdir()
    for value, name in enumerate("abcd"):
        Image.fromarray(np.full((3, 4), value, np.uint8)).save(root / f"SegmentationClass/{name}.png")
    return root


def with_aug(root: Path, *names: str) -> None:
    (root / "SegmentationClassAug").mkdir()
    for name in names:
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(root / f"SegmentationClassAug/{name}.png")


def put_sbd(folder: Path, **masks: np.ndarray) -> Path:
    (folder / "cls").mkdir(parents=True)
    for name, labels in masks.items():
        struct = {"Segmentation": labels, "Boundaries": np.zeros(2), "CategoriesPresent": np.unique(labels)}
        savemat(folder / f"cls/{name}.mat", {"GTcls": struct}, do_compression=True)
    return folder


def split(root: Path, name: str) -> list[str]:
    return (root / SETS / f"{name}.txt").read_text().split()


def test_missing_splits_are_written_and_others_left(root: Path, command: Command) -> None:
    with_aug(root, *"abcdfe")
    ended = command("scripts.prepare_voc12", "--root", root)
    assert ended.code == 0, ended.err
    assert split(root, "train_aug") == ["a", "c", "e", "f"]
    assert split(root, "val") == ["d", "b"]  # as it was
    for expected in (1464, 1449, 2913, 10582):
        assert f"expected {expected}: not the whole of VOC 2012" in ended.out
    assert "SegmentationClassAug: 6 masks, expected 12031" in ended.out
    again = command("scripts.prepare_voc12", "--root", root)
    assert again.code == 0 and "written" not in again.out


def test_what_is_missing_is_said(root: Path, command: Command) -> None:
    ended = command("scripts.prepare_voc12", "--root", root)
    assert ended.code == 3
    assert "train_aug  missing: it needs val and SegmentationClassAug; put that folder there, or give SBD" in ended.out
    for name in ("train", "val"):
        (root / SETS / f"{name}.txt").unlink()
    (root / SETS / "trainval.txt").unlink()
    ended = command("scripts.prepare_voc12", "--root", root)
    assert ended.code == 3 and ended.out.count("comes with VOCtrainval_11-May-2012.tar") == 3


@pytest.mark.parametrize("inside_root", [False, True])
def test_sbd_becomes_masks_and_vocs_own_go_first(
    inside_root: bool, root: Path, command: Command, tmp_path: Path
) -> None:
    labels = np.array([[0, 20, 1], [255, 15, 0]], np.uint8)
    sbd = put_sbd(root if inside_root else tmp_path / "sbd/dataset", x=labels, a=np.full((3, 4), 9, np.uint8))
    argv = [] if inside_root else ["--sbd", sbd.parent]
    ended = command("scripts.prepare_voc12", "--root", root, *argv)
    assert ended.code == 0, ended.err
    masks = root / "SegmentationClassAug"
    np.testing.assert_array_equal(read_mask(masks / "x.png"), labels)
    assert read_mask(masks / "a.png").max() == 0 and read_mask(masks / "c.png").max() == 2
    assert split(root, "train_aug") == ["a", "c", "x"]
    assert "5 masks of" in ended.out


def test_a_damaged_mat_leaves_train_aug_unwritten(root: Path, command: Command, tmp_path: Path) -> None:
    sbd = put_sbd(tmp_path / "sbd", x=np.zeros((2, 2), np.uint8))
    (sbd / "cls/y.mat").write_bytes(b"not a mat file at all" * 20)
    ended = command("scripts.prepare_voc12", "--root", root, "--sbd", sbd)
    assert ended.code == 3 and "y.mat: not a readable .mat file" in ended.err
    assert not (root / SETS / "train_aug.txt").exists()
    (sbd / "cls/y.mat").unlink()
    assert command("scripts.prepare_voc12", "--root", root, "--sbd", sbd).code == 0
    assert split(root, "train_aug") == ["a", "c", "x"]


def test_mat_files_of_another_kind(tmp_path: Path) -> None:
    path, struct = tmp_path / "x.mat", "not a readable .mat file with GTcls.Segmentation"
    for content, said in (
        ({"other": 1}, struct),
        ({"GTcls": np.zeros((2, 2))}, struct),
        ({"GTcls": {"Boundaries": 1}}, struct),
        ({"GTcls": {"Segmentation": np.full((2, 2), 21, np.uint8)}}, "holds the value 21"),
        ({"GTcls": {"Segmentation": np.full((2, 2), 0.5)}}, "is no matrix of labels"),
        ({"GTcls": {"Segmentation": np.zeros((2, 2, 2), np.uint8)}}, "is no matrix of labels"),
    ):
        savemat(path, content)
        with pytest.raises(UserError, match=rf"x\.mat: .*{said}"):
            read_source(path)


def test_wrong_roots(root: Path, command: Command, tmp_path: Path) -> None:
    for given, message in (
        (tmp_path / "VOC", "no such folder; expected the folder VOC2012 of VOCtrainval"),
        (tmp_path, f"not VOC2012 itself; expected --root {root}"),
        (root / "SegmentationClass", "neither ImageSets/Segmentation nor SegmentationClass in it"),
    ):
        ended = command("scripts.prepare_voc12", "--root", given)
        assert ended.code == 2 and message in ended.err and len(ended.err.splitlines()) == 1
    ended = command("scripts.prepare_voc12", "--root", root, "--sbd", tmp_path)
    assert ended.code == 2 and "no .mat file in it or its cls" in ended.err


def test_the_recipe_says_what_it_lacks_before_it_installs_anything(root: Path, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "run_voc12.sh"
    weights = tmp_path / "clip.pt"

    def said(*argv: object) -> str:
        ended = subprocess.run(["bash", script, *map(str, argv)], capture_output=True, text=True, cwd=tmp_path)
        assert ended.returncode == 2 and not ended.stdout and len(ended.stderr.splitlines()) == 1, ended.stderr
        return ended.stderr

    assert said(tmp_path / "none", weights).startswith(f"error: DATA_ROOT {tmp_path}/none: no folder JPEGImages in it")
    for name in ("JPEGImages", "Annotations"):
        (root / name).mkdir()
    assert said(root, "ViT-B-16").startswith("error: WEIGHTS ViT-B-16: no such file; give the file itself")
    weights.touch()
    assert said(root, weights, "my.txt").startswith("error: SPLIT_FILE my.txt: no such file")
    (root / SETS / "train.txt").unlink()
    assert f"make it: python -m scripts.prepare_voc12 --root {root}" in said(root, weights)
