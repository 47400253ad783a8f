"""The dense methods' benchmark: a short run, and whether it sees that two programs do not do the same."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import dense, material
from tests.support import Command


@pytest.mark.slow
def test_rows(
    command: Command, tmp_path: Path, small_photos: Callable[[ModuleType], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_photos(dense)
    monkeypatch.setattr(dense, "dino_folder", lambda folder: material.dino_folder(folder, True))
    small = {"short_side": 60, "window": 48, "stride": 36}
    monkeypatch.setattr(dense, "OWN", {name: {} if name == "excel" else small for name in dense.NAMES})
    methods = ["clearclip", "proxyclip", "freecp", "excel"]
    options = ["--quick", "--model", "toy", "--threads", 1, "--device", "cpu", "--json", tmp_path / "r.json"]
    ended = command("benchmarks.dense", *options, "--methods", *methods)
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["method"] for row in rows] == methods
    for row in rows:
        assert row["ratio"] == pytest.approx(row["images_per_s"] / row["plain_images_per_s"])
        assert row["difference"] < 1e-4 and row["equal"] > 0.8


@pytest.mark.parametrize(("difference", "code"), [(0.0, 0), (0.01, 3), (float("nan"), 3)])
def test_other_maps_end_the_benchmark_badly(difference: float, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert dense.verdict([{"method": "gem", "difference": difference}] * 2) == code
    assert capsys.readouterr().err.count("error: gem: the maps are not those") == (code == 3)
