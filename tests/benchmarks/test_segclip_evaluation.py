"""SegCLIP's benchmark: whether it sees that two programs do not do the same, and the tables' figures."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import segclip_evaluation
from tests.support import Command


@pytest.mark.slow
def test_rows(
    command: Command,
    tmp_path: Path,
    small_photos: Callable[[ModuleType], None],
    run_here: list[Command],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_photos(segclip_evaluation)
    monkeypatch.setattr(segclip_evaluation, "SHORT_LENGTHS", (1, 2))
    options = ["--quick", "--model", "toy", "--photos", 1, "--threads", 1, "--json", tmp_path / "r.json"]
    ended = command("benchmarks.segclip_evaluation", *options, "--device", "cpu")
    assert ended.code == 0, ended.err
    speed, memory = (json.loads((tmp_path / "r.json").read_text())["rows"][part] for part in (slice(3), slice(3, 5)))
    assert [row["way"] for row in speed] == list(segclip_evaluation.ON_CPU)
    for row in speed:
        assert row["ratio"] == pytest.approx(row["images_per_s"] / row["plain_images_per_s"])
        assert row["equal"] > 0.999 or row["precision"] != "float32"
    assert [row["images"] for row in memory] == [1, 2] and [row["generate_mb"] for row in memory] == [102, 104]
    assert [module for module, _ in run_here] == ["generate_cams", "eval_cam"] * 2


@pytest.mark.parametrize(
    ("precision", "equal", "code"), [("float32", 1, 0), ("float32", 0.99, 3), ("bfloat16", 0.9, 0)]
)
def test_other_labels_in_float32_end_the_benchmark_badly(
    precision: str, equal: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segclip_evaluation.verdict([{"way": "x", "precision": precision, "equal": equal}]) == code
    assert ("not those of the transcription" in capsys.readouterr().err) == (code == 3)
