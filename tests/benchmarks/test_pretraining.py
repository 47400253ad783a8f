"""The benchmark of a training step: both ways give the same losses, and it sees when they do not."""

import json
from pathlib import Path

import pytest

from benchmarks import pretraining
from tests.support import Command


@pytest.mark.slow
def test_both_ways_take_the_same_steps(command: Command, tmp_path: Path) -> None:
    options = ["--quick", "--models", "toy", "--batch", 2, "--threads", 1, "--json", tmp_path / "r.json"]
    ended = command("benchmarks.pretraining", *options)
    assert ended.code == 0, ended.err
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert row["losses"] < 1e-4 and row["ratio"] == pytest.approx(row["plain_seconds"] / row["seconds"])


def test_other_losses_end_the_benchmark_badly(capsys: pytest.CaptureFixture[str]) -> None:
    assert pretraining.verdict([{"model": "toy", "losses": float("nan")}]) == 3
    assert "not those of the transcription" in capsys.readouterr().err
    assert pretraining.verdict([{"model": "toy", "losses": 1e-5}]) == 0
