"""scripts/export_masks.py from the command line; tests/exports/ reads what it writes."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from scripts import export_masks
from tests.segmentor.small import write_scenes
from tests.support import tree


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    write_scenes(tmp_path, 3)
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    (tmp_path / "val.txt").write_text("s2\n")
    (tmp_path / "train.txt").write_text("s0\ns1\n")
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "folder", "--img_root", "images", "--classes", "classes.txt", "--split_file", "train.txt"]
    return [*options, "--masks", "masks", "--out", "out"]


@pytest.mark.parametrize(
    ("trainer", "files"),
    [
        ("mmsegmentation", {"lists/train.txt": b"s0\ns1\n", "lists/val.txt": b"s2\n"}),
        (
            "deeplab-pytorch",
            {
                "VOC2012/ImageSets/SegmentationAug/val.txt": b"/JPEGImages/s2.jpg /SegmentationClass/s2.png\n",
                "labels.txt": b"0\tbackground\n1\tred\n2\tblue\n",
            },
        ),
    ],
)
def test_both_parts_are_written(
    data: list[str], tmp_path: Path, trainer: str, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_masks.main(["--to", trainer, *data, "--val_split", "val.txt", "--gt_root", "masks"]) == 0
    found = tree(tmp_path / "out")
    assert {name: found[name] for name in files} == files
    assert sum(name.endswith(".jpg") for name in found) == 3
    told = capsys.readouterr().out
    assert "2 images with masks" in told and "1 images to validate on" in told and "docs/exports.md" in told


def test_missing_masks_are_listed(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks" / "s1.png").unlink()
    assert export_masks.main(["--for", "mmsegmentation", *data]) == 3
    assert capsys.readouterr().err.startswith("1 image failed:\n  s1: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--masks", "nowhere"], "--masks nowhere: no such folder"), (["--gt_root", "masks"], "only with --val_split"),
     (["--out", "classes.txt"], "--out classes.txt: cannot be written to"),
     (["--polygons"], "--polygons goes with --to coco or labelme; not with mmsegmentation"),
     (["--to", "coco", "--push", "me/masks"], "--push goes with --to hf; not with coco"),
     (["--to", "hf", "--push", "me/masks"], "--push me/masks: no token for the Hugging Face Hub; run `hf auth login`"),
     (["--out", "."], "--out .: holds the images themselves, images; choose another folder"),
     (["--out", "masks"], "--out masks: holds the masks themselves, masks; choose another folder"),
     (["--ignored", "red"], "--ignored red: a class of that name is there already")],
)  # fmt: skip
def test_a_mistake_is_one_line(
    data: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert export_masks.main(["--for", "mmsegmentation", *data, *options]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_what_becomes_of_255_is_said(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_masks.main(["--to", "coco", *data]) == 0
    told = capsys.readouterr().out
    assert "2 masks hold 255 (not sure), which coco cannot tell from background; --ignored NAME" in told
    assert "out/annotations/instances_train.json: see docs/exports.md" in told
    assert export_masks.main(["--for", "coco", *data, "--ignored", "not sure", "--polygons"]) == 0
    assert "255" not in capsys.readouterr().out
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [one["name"] for one in content["categories"]] == ["red", "blue", "not sure"]


def test_what_lies_in_the_way_is_said(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_masks.main(["--to", "yolo-seg", *data]) == 0
    (tmp_path / "train.txt").write_text("s1\n")
    assert export_masks.main(["--to", "yolo-seg", *data]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("warning: 2 files that were there before") and "out/images/train/s0.png" in warning


def test_masks_of_another_program_are_read_as_said(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 and 255 alone would be an empty data set."""
    for path in (tmp_path / "masks").glob("*.png"):
        Image.fromarray(np.where(np.array(Image.open(path)) == 2, 255, 0).astype(np.uint8)).save(path)
    assert export_masks.main(["--to", "coco", *data]) == 2
    said = capsys.readouterr().err
    assert "hold 0 and 255 only" in said and "--mask_values 0,255=background," in said
    assert export_masks.main(["--to", "coco", *data, "--mask_values", "0,255=background,blue"]) == 0
    written = json.loads(next((tmp_path / "out").rglob("instances_train.json")).read_text())
    assert {each["category_id"] for each in written["annotations"]} == {2}
