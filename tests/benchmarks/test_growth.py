"""Growth by hand; the whole benchmark once."""

import json
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.measure import Usage
from tests.support import Command


def test_time_of_the_images_beyond_the_first_and_growth_of_memory() -> None:
    loading = [Usage(2.0, 500), Usage(1.0, 500), Usage(3.0, 600)]
    rows = [
        growth.row(101, [Usage(4.0, 500), Usage(1.5, 501), Usage(13.0, 600)], loading),
        growth.row(2101, [Usage(44.0, 503), Usage(1.0, 504), Usage(3.0, 610)], loading),
    ]
    assert rows[0]["generate_cams_ms"] == pytest.approx(20) and rows[0]["eval_cam_ms"] == pytest.approx(5)
    assert rows[0]["eval_cam_with_crf_ms"] == pytest.approx(100) and rows[1]["generate_cams_mb"] == 503
    assert growth.slope(rows) == pytest.approx(5)  # 10 MB in 2,000 images
    assert growth.row(1, loading, loading)["eval_cam_ms"] is None


@pytest.mark.long
def test_rows(command: Command, tmp_path: Path) -> None:
    ended = command("benchmarks.growth", "--images", 2, "--threads", 1, "--json", tmp_path / "r.json")
    assert ended.code == 0, ended.err
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert row["images"] == 2 and row["eval_cam_with_crf_mb"] >= row["generate_cams_mb"] > 100
