"""The benchmark of regions runs, and its transcription gives what the product gives."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import regions


@pytest.mark.slow
def test_the_transcription_and_ours_do_the_same(
    tmp_path: Path, small_photos: Callable[[ModuleType], None], capsys: pytest.CaptureFixture[str]
) -> None:
    small_photos(regions)
    argv = ["--quick", "--models", "toy", "--threads", "1", "--no_memory", "--json", str(tmp_path / "f.json")]
    assert regions.main(argv) == 0, capsys.readouterr().err
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["regions", "whole method"]
    assert rows[0]["difference"] < 1e-4 and rows[1]["equal"] > 0.999 and all(row["ratio"] > 0 for row in rows)


def test_a_difference_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"model": "m", "what": "regions", "difference": 0.1}
    assert not regions.agrees([row]) and "m, regions: not what" in capsys.readouterr().err
    assert regions.agrees([{**row, "difference": 1e-6}, {"what": "2 photos", "peak_mb": 1.0}])
