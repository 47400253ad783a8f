"""The shell recipes say what they lack in one line, before they install or compute anything."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

VOC_SETS = "ImageSets/Segmentation"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC2012 with the folders and lists that recipes look for, without any image."""
    root = tmp_path / "VOC2012"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", VOC_SETS):
        (root / name).mkdir(parents=True)
    for name in ("train", "train_aug", "val"):
        (root / VOC_SETS / f"{name}.txt").write_text("a\n")
    (tmp_path / "clip.pt").touch()
    return root


def said(recipe: str, *argv: object, **environment: str) -> str:
    ended = subprocess.run(
        ["bash", ROOT / "scripts" / recipe, *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert ended.returncode == 2 and not ended.stdout, ended
    return ended.stderr


def one_line(recipe: str, *argv: object, **environment: str) -> str:
    err = said(recipe, *argv, **environment)
    assert err.count("\n") == 1 and err.startswith("error: "), err
    return err


@pytest.mark.parametrize(
    "recipe", ["run_voc12.sh", "run_maskclip_plus.sh", "run_segclip.sh", "second_round.sh", "run_zsseg.sh"]
)
def test_without_arguments_the_head_is_shown(recipe: str) -> None:
    """All of its comment, and nothing after it."""
    lines = (ROOT / "scripts" / recipe).read_text().splitlines()
    head = [line.removeprefix("#").removeprefix(" ") for line in lines[1 : lines.index("set -euo pipefail")]]
    assert said(recipe).splitlines() == head


@pytest.mark.parametrize("script", ["demo.sh", "compare_toyworld.sh"])
def test_scripts_without_arguments_say_so_and_compute_nothing(script: str) -> None:
    assert f"bash scripts/{script}" in said(script, "--help") or "Run it again" in said(script, "--help")


def test_maskclip_plus_lacks(voc: Path, tmp_path: Path) -> None:
    recipe, weights = "run_maskclip_plus.sh", tmp_path / "clip.pt"
    assert "DATASET voc: expected voc20, context59 or cocostuff" in one_line(recipe, voc, weights, "voc")
    assert "no folder train2017 in it" in one_line(recipe, voc, weights, "cocostuff")
    assert "SegmentationContext/train.txt: no such file" in one_line(recipe, voc, weights, "context59")
    assert "WEIGHTS ViT-B-16: no such file" in one_line(recipe, voc, "ViT-B-16")
    assert "ARCH unet: expected segformer-b0" in one_line(recipe, voc, weights, ARCH="unet")
    assert "MASKS none: no such folder" in one_line(recipe, voc, weights, MASKS="none")
    (voc / VOC_SETS / "train_aug.txt").unlink()
    assert "train_aug.txt: no such file" in one_line(recipe, voc, weights)


def test_second_round_lacks(tmp_path: Path) -> None:
    assert "MASKS gone: no such folder" in one_line("second_round.sh", "gone", tmp_path / "out")
    assert "ROUNDS 0: expected a number" in one_line("second_round.sh", tmp_path, tmp_path / "out", 0)
    assert "--model: expected --dataset" in one_line("second_round.sh", tmp_path, tmp_path / "out", "--model", "x")
    assert "--labels: expected a value" in one_line("second_round.sh", tmp_path, tmp_path / "out", 2, "--labels")


def test_segclip_lacks(voc: Path, tmp_path: Path) -> None:
    recipe, weights = ("run_segclip.sh", "evaluate"), tmp_path / "clip.pt"
    assert "DATASET voc: expected voc12, context60 or cocoobject" in one_line(*recipe, voc, weights, "voc")
    assert "no folder val2017 in it" in one_line(*recipe, voc, weights, "cocoobject")
    assert "SegmentationContext/val.txt: no such file" in one_line(*recipe, voc, weights, "context60")
    assert "WEIGHTS segclip.bin: no such file" in one_line(*recipe, voc, "segclip.bin")
    assert "PHOTO x.jpg: no such file" in one_line("run_segclip.sh", "demo", "x.jpg", weights)
    (tmp_path / "coco/val2017").mkdir(parents=True)
    lacking = one_line(*recipe, tmp_path / "coco", weights, "cocoobject")
    assert "python -m scripts.prepare_dense cocoobject --raw" in lacking and "stuffthingmaps/val2017" in lacking


def test_segclip_lacks_what_it_learns_from(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").touch()
    recipe = ("run_segclip.sh", "pretrain")
    assert "CLIP ViT-B-16: no such file" in one_line(*recipe, "ViT-B-16", tmp_path)
    assert "DATA gone: no such folder" in one_line(*recipe, tmp_path / "clip.pt", "gone")


def test_zsseg_lacks(voc: Path, tmp_path: Path) -> None:
    recipe, weights = "run_zsseg.sh", tmp_path / "clip.pt"
    assert "DATASET voc12: expected voc or cocostuff" in one_line(recipe, voc, weights, "voc12")
    assert "no folder train2017 in it" in one_line(recipe, voc, weights, "cocostuff")
    assert "no folder SegmentationClassAug in it" in one_line(recipe, voc, weights, "voc")
    (voc / "SegmentationClassAug").mkdir()
    assert "WEIGHTS ViT-B-16: no such file" in one_line(recipe, voc, "ViT-B-16", "voc")
    assert "NETWORK R18: expected R50 or R101c" in one_line(recipe, voc, weights, "voc", NETWORK="R18")
    assert "PRETRAINED is needed for R101c" in one_line(recipe, voc, weights, "voc")
    (voc / VOC_SETS / "train_aug.txt").unlink()
    assert "train_aug.txt: no such file; make it" in one_line(recipe, voc, weights, "voc")


def test_the_network_of_voc12_needs_a_validation_list(voc: Path, tmp_path: Path) -> None:
    (voc / VOC_SETS / "val.txt").unlink()
    assert "val.txt: no such file; the network is scored on it (or SEGMENTOR=no)" in one_line(
        "run_voc12.sh", voc, tmp_path / "clip.pt"
    )
