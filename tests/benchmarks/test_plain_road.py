"""The reference's road: its masks from its maps."""

import shutil
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import plain_road
from dataset.spec import Sample
from dataset.split_file import read_split
from tests.support import Command, write_world


def test_golden_masks(golden: Path, voc_mini: Path, tmp_path: Path) -> None:
    for folder in ("cams", "masks"):
        (tmp_path / folder).mkdir()
    image_id = read_split(golden / "split.txt")[0]
    shutil.copyfile(golden / "cams" / f"{image_id}.npz", tmp_path / "cams" / f"{image_id}.npz")
    plain_road.write_mask(tmp_path, Sample(image_id, voc_mini / "JPEGImages" / f"{image_id}.jpg", ()))
    found = Image.open(tmp_path / "masks" / f"{image_id}.png")
    wanted = np.array(Image.open(golden / "masks" / f"{image_id}.png"))
    assert found.mode == "L" and (np.array(found) == wanted).mean() >= 0.9999


@pytest.mark.parametrize("workers", [1, 2])
def test_the_road(
    workers: int, weights: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pydensecrf")
    monkeypatch.setattr(plain_road, "get_context", lambda _: get_context("fork"))  # quick; the benchmark spawns
    root = write_world(tmp_path / "data", {"a": ((24, 33), ["dog", "person"]), "b": ((20, 40), ["car"])})
    data = ["--img_root", root / "JPEGImages", "--split_file", root / "ImageSets/Segmentation/train.txt"]
    ended = command(
        "benchmarks.plain_road", *data, "--model", weights, "--out", tmp_path / "out", "--crf_workers", workers
    )
    assert ended.code == 0, ended.err
    for image_id, labels, shape in (("a", {0, 12, 15, 255}, (24, 33)), ("b", {0, 7, 255}, (20, 40))):
        mask = np.array(Image.open(tmp_path / "out" / "masks" / f"{image_id}.png"))
        assert mask.shape == shape and set(np.unique(mask)) <= labels
