"""scripts.propose: one file a photo, kept when it is there, and one bad photo costs only itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.segmentation import felzenszwalb

from common.images import read_image
from dataset.split_file import read_split
from tests.made import made
from tests.support import Command
from zsseg.proposals.files import read_regions


@pytest.fixture
def data(world: Path, tmp_path: Path) -> list[object]:
    return ["--dataset", "voc12", "--img_root", world / "JPEGImages", "--out", tmp_path / "out"]


def test_files_are_made_and_stay(command: Command, data: list[object], world: Path, tmp_path: Path) -> None:
    options = ["--fz_scale", "20", "--fz_min_size", "30"]
    ended = command("scripts.propose", *data, *options)
    assert ended.code == 0 and "5 region files written" in ended.out, ended.err
    for image_id in read_split(world / "ImageSets/Segmentation/train.txt"):
        rgb = np.asarray(read_image(world / f"JPEGImages/{image_id}.jpg"))
        wanted = felzenszwalb(rgb, scale=20, sigma=0.8, min_size=30)
        assert (read_regions(tmp_path / f"out/{image_id}.png").labels == wanted).all()
    before = made(tmp_path / "out")
    (tmp_path / "out/b.png").write_bytes(before["b.png"][:-9])  # damaged: made again
    again = command("scripts.propose", *data, *options)
    assert "1 region file written, 4 already there" in again.out and made(tmp_path / "out") == before
    other = command("scripts.propose", *data, "--fz_scale", "50")
    assert other.code == 2 and "scale 20.0 (now 50.0)" in other.err and made(tmp_path / "out") == before


def test_shards_write_the_same(command: Command, data: list[object], tmp_path: Path) -> None:
    assert command("scripts.propose", *data).code == 0
    whole = made(tmp_path / "out")
    for shard in ("0/2", "1/2"):
        assert command("scripts.propose", *data, "--out", tmp_path / "parts", "--shard", shard).code == 0
    parts = {name: content for name, content in made(tmp_path / "parts").items() if name.endswith(".png")}
    assert parts == {name: content for name, content in whole.items() if name.endswith(".png")}


def test_a_bad_photo_costs_only_itself(command: Command, data: list[object], world: Path, tmp_path: Path) -> None:
    (world / "JPEGImages/c.jpg").write_bytes(b"no photo")
    (world / "JPEGImages/d.jpg").unlink()
    ended = command("scripts.propose", *data, "--proposals", "selective-search")
    assert ended.code == 3 and "3 region files written" in ended.out and "2 images failed" in ended.err
    failed = [json.loads(line)["id"] for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert failed == ["c", "d"]


def test_options_go_with_the_way_to_propose(command: Command, data: list[object]) -> None:
    helped = command("scripts.propose", "--proposals", "sam", "--help").out
    assert "--sam_points" in helped and "--fz_scale" not in helped
    refused = command("scripts.propose", *data, "--sam_points", "3")
    assert refused.code == 2 and "--sam_points goes with --proposals sam" in refused.err
    needed = command("scripts.propose", *data, "--proposals", "universal")
    assert needed.code == 2 and "--network is needed" in needed.err
