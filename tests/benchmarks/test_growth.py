"""Growth by hand; the whole benchmark once."""

import json
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.fresh import Ran
from tests.support import Command


def test_time_of_the_images_beyond_the_first_and_growth_of_memory() -> None:
    loading = [Ran(2.0, 500), Ran(1.0, 500), Ran(3.0, 600)]
    rows = [
        growth.row(101, [Ran(4.0, 500), Ran(1.5, 501), Ran(13.0, 600)], loading),
        growth.row(2101, [Ran(44.0, 503), Ran(1.0, 504), Ran(3.0, 610)], loading),
    ]
    assert rows[0]["generate_cams_ms"] == pytest.approx(20) and rows[0]["eval_cam_ms"] == pytest.approx(5)
    assert rows[0]["eval_cam_with_crf_ms"] == pytest.approx(100) and rows[1]["generate_cams_mb"] == 503
    assert growth.slope(rows) == pytest.approx(5)  # 10 MB in 2,000 images
    assert growth.row(1, loading, loading)["eval_cam_ms"] is None


@pytest.mark.long
def test_rows(command: Command, tmp_path: Path) -> None:
    options = ["--quick", "--images", 2, "--classes", 1, "--threads", 1, "--json", tmp_path / "r.json"]
    ended = command("benchmarks.growth", *options)
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "r.json").read_text())
    assert [row.get("images") for row in record["rows"]] == [2, None]
    assert record["rows"][0]["eval_cam_with_crf_mb"] >= record["rows"][0]["generate_cams_mb"] > 100
    assert record["rows"][-1]["classes"] == 1 and record["rows"][-1]["cam_bytes"] > 1000
    assert "MB per 1,000 images" in ended.out and isinstance(record["settings"]["mb_per_1000_images"], float)
