"""scripts/export_masks.py from the command line; tests/exports/ reads what it writes."""

from pathlib import Path

import pytest

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
    assert export_masks.main(["--for", trainer, *data, "--val_split", "val.txt", "--gt_root", "masks"]) == 0
    found = tree(tmp_path / "out")
    assert {name: found[name] for name in files} == files
    assert sum(name.endswith(".jpg") for name in found) == 3
    told = capsys.readouterr().out
    assert "2 images with masks" in told and "1 images to validate on" in told and "docs/trainers.md" in told


def test_missing_masks_are_listed(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks" / "s1.png").unlink()
    assert export_masks.main(["--for", "mmsegmentation", *data]) == 3
    assert capsys.readouterr().err.startswith("1 image failed:\n  s1: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--masks", "nowhere"], "--masks nowhere: no such folder"), (["--gt_root", "masks"], "only with --val_split"),
     (["--out", "classes.txt"], "--out classes.txt: cannot be written to")],
)  # fmt: skip
def test_a_mistake_is_one_line(
    data: list[str], capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert export_masks.main(["--for", "mmsegmentation", *data, *options]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
