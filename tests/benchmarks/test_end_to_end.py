"""Rates and shares by hand; the whole benchmark once."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import end_to_end
from benchmarks.end_to_end import PLAIN, Way
from benchmarks.material import copies, generated
from tests.support import Command


@pytest.fixture
def way(tmp_path: Path) -> Way:
    return Way("ours", generated(3, tmp_path / "data", [(6, 8)]), lambda photos, out: [])


def test_loading_is_taken_off(way: Way) -> None:
    """Medians: 4 s for one image, 10 s for three."""
    one, whole = [(4.0, 100.0), (9.0, 90.0), (3.0, 90.0)], [(10.0, 300.0), (30.0, 250.0), (9.0, 310.0)]
    row = end_to_end.row(way, one, whole)
    assert row["images_per_s"] == pytest.approx(2 / 6) and row["peak_mb"] == 310
    assert end_to_end.row(way, [], whole)["images_per_s"] == pytest.approx(3 / 10)
    assert end_to_end.row(way, whole, one)["images_per_s"] is None


def test_same_pixels_of_copied_images(way: Way, tmp_path: Path) -> None:
    """Copies have other names; each is compared with its original."""
    many = Way("many", copies(way.photos, tmp_path / "many", 6), way.commands)
    for name, ids, changed in ((way.name, way.photos.ids, 0), (many.name, many.photos.ids, 2)):
        for value, image_id in enumerate(ids):
            mask = np.full((2, 4), value % 3, np.uint8)
            mask.ravel()[: changed if value == 1 else 0] = 255
            path = tmp_path / f"{name}, list, 0" / "masks" / f"{image_id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    assert end_to_end.same_pixels(many, way, tmp_path) == 22 / 24


@pytest.mark.long
def test_rows(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("pydensecrf")
    options = ["--quick", "--photos", 1, "--threads", 1, "--device", "cpu", "--json", tmp_path / "r.json"]
    ended = command("benchmarks.end_to_end", *options)
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["way"] for row in rows] == [PLAIN, "generate_cams.py, eval_cam_with_crf.py", "scripts.run"]
    assert all(row["same_pixels"] > 0.999 and row["peak_mb"] > 100 for row in rows)
