"""Bytes by arithmetic, and the benchmark's rows."""

import json
from pathlib import Path

import pytest

from benchmarks import disk
from benchmarks.material import generated
from pipeline.files.cam_file import save_cams
from tests.support import Command


def test_the_references_bytes_are_those_of_its_arrays(tmp_path: Path) -> None:
    (sample,) = generated(1, tmp_path, [(50, 70)], classes=3).samples()
    path = tmp_path / "noise.npz"
    save_cams(path, disk.noise(0, sample), {})
    arrays = 3 * 50 * 70 * 2 + 3 * 8
    assert arrays < disk.reference_bytes(sample, path) < arrays + 1000
    found = disk.row("noise", "patch grid", {sample: path})
    assert found["ours_bytes"] == path.stat().st_size
    assert found["reference_over_ours"] == pytest.approx(found["reference_bytes"] / found["ours_bytes"])
    assert found["least"] == found["reference_over_ours"]
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".npz"]


def test_rows(command: Command, tmp_path: Path) -> None:
    ended = command("benchmarks.disk", "--photos", 1, "--threads", 1, "--json", tmp_path / "r.json")
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["form"] for row in rows] == ["patch grid", "--save highres"] * 2 + ["patch grid"]
    assert all(row["reference_over_ours"] > 20 for row in rows if row["form"] == "patch grid")
