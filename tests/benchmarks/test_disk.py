"""Bytes by arithmetic, and the benchmark's rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import disk
from benchmarks.material import generated
from pipeline.files.cam_file import save_cams
from pipeline.steps.maps import Cams
from tests.support import Command


def test_the_references_bytes_are_those_of_its_arrays(tmp_path: Path) -> None:
    (sample,) = generated(1, tmp_path, [(50, 70)], classes=3).samples()
    path, maps = tmp_path / "a.npz", np.random.default_rng(0).random((3, 4, 5), np.float32)
    save_cams(path, Cams(np.array(sample.labels), maps, maps, (50, 70)), {})
    arrays = 3 * 50 * 70 * 2 + 3 * 8
    assert arrays < disk.reference_bytes(sample, path) < arrays + 1000
    row = disk.row("patch grid", {sample: path})
    assert row["ours_bytes"] == path.stat().st_size and row["least"] == row["reference_over_ours"]
    assert row["reference_over_ours"] == pytest.approx(row["reference_bytes"] / row["ours_bytes"])
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".npz"]


@pytest.mark.slow
def test_rows(command: Command, tmp_path: Path) -> None:
    ended = command("benchmarks.disk", "--photos", 1, "--threads", 1, "--json", tmp_path / "r.json")
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["form"] for row in rows] == ["patch grid", "--save highres"]
    assert all(row["reference_over_ours"] > 20 for row in rows if row["form"] == "patch grid")
