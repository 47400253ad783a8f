"""The CAM benchmark: whether it sees that two programs do not do the same, and the table's figures."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import cams
from tests.support import Command

pytestmark = pytest.mark.slow


def test_rows(command: Command, tmp_path: Path, small_photos: Callable[[ModuleType], None]) -> None:
    small_photos(cams)
    options = ["--quick", "--models", "toy", "--photos", 1, "--threads", 1, "--json", tmp_path / "r.json"]
    ended = command("benchmarks.cams", *options, "--device", "cpu", "--ways", "float32", "float32-b8", "--repeat", 2)
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "r.json").read_text())
    assert [row["way"] for row in record["rows"]] == ["float32", "float32-b8"]
    assert record["settings"]["threads"] == 1 and record["benchmark"] == "cams"
    for row in record["rows"]:
        assert row["ratio"] == pytest.approx(row["images_per_s"] / row["plain_images_per_s"])
        assert row["equal_maps"] == 1 and 0 < row["max_attn"] < 1e-3 and row["model"] == "toy"
    assert ended.out.count("| toy ") == 2 and "1 thread on" in ended.out


@pytest.mark.parametrize(
    ("precision", "equal", "code"), [("float32", 1.0, 0), ("float32", 0.99, 3), ("float16", 0.5, 0)]
)
def test_other_maps_in_float32_end_the_benchmark_badly(
    precision: str, equal: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lower precision may differ: that is what the column is for."""
    assert cams.verdict([{"model": "toy", "way": "x", "precision": precision, "equal_maps": equal}]) == code
    assert ("not those of the transcription" in capsys.readouterr().err) == (code == 3)
