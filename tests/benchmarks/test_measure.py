"""Turns, tables, records, fresh processes, and what every benchmark refuses."""

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from common.errors import UserError
from tests.support import Command

BENCHMARKS = ("cams", "crf", "evaluation", "disk", "end_to_end", "growth", "gpu", "scores")


def test_all_run_once_a_turn_in_alternating_order() -> None:
    calls: list[str] = []
    seconds = iter([1.0, 10.0, 30.0, 2.0, 6.0, 20.0])

    def contestant(name: str) -> float:
        calls.append(name)
        return next(seconds)

    found = measure.take_turns({"a": lambda: contestant("a"), "b": lambda: contestant("b")}, turns=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": 2.0, "b": 20.0}  # medians of 1, 2, 6 and of 10, 30, 20


def test_table_and_record(tmp_path: Path) -> None:
    columns = {"name": ("way", "{}"), "rate": ("images/s", "{:.1f}")}
    rows = [{"name": "plain", "rate": 12.345, "more": 1}, {"name": "a", "rate": None}]
    assert measure.table(rows, columns).splitlines() == [
        "| way   | images/s |",
        "| ----- | -------- |",
        "| plain | 12.3     |",
        "| a     | -        |",
    ]
    measure.write_record(tmp_path / "r.json", "x", measure.machine(), {"turns": 3}, rows)
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["benchmark"] == "x" and record["settings"] == {"turns": 3} and record["rows"] == rows
    assert record["machine"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert record["machine"]["cores"] == os.cpu_count() and record["machine"]["processor"]


def test_cores_are_given_back() -> None:
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with measure.cores(1):
        assert torch.get_num_threads() == 1 and os.sched_getaffinity(0) == {min(allowed)}
    assert os.sched_getaffinity(0) == allowed and torch.get_num_threads() == threads


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_mistake_is_one_line(name: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    mistakes = {
        ("--json", "."): "--json .: a folder",
        ("--json", tmp_path / "file" / "r.json"): "--json",
        ("--threads", 0): "expected 1 or more",
    }
    for options, says in mistakes.items():
        ended = command(f"benchmarks.{name}", *options)
        assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1 and not ended.out


def test_more_threads_than_cores_are_refused(command: Command) -> None:
    ended = command("benchmarks.disk", "--threads", 100_000)
    assert ended.code == 2 and ended.err.startswith("error: --threads 100000: ") and not ended.out


HOLDER = """
def main(argv):
    held = bytearray(int(argv[0]) * 1_000_000)
    held[::4096] = bytes([1]) * len(held[::4096])
    return int(argv[1])
"""


def test_fresh_processes_report_their_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process holds far more than the one it starts."""
    (tmp_path / "holder.py").write_text(HOLDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    held = b"1" * 400_000_000
    (small, large), _ = measure.run_fresh(("holder", ["1", "0"]), ("holder", ["150", "0"]))
    assert len(held) / 1e6 > 2 * small.peak_mb and small.peak_mb + 120 < large.peak_mb < 350
    with pytest.raises(UserError, match="holder"):
        measure.run_fresh(("holder", ["1", "3"]))
