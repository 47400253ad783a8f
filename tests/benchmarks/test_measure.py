"""Turns, tables, records, and what every benchmark refuses."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.fresh import run_fresh
from common.errors import UserError
from tests.support import ROOT, Command

BENCHMARKS = ("cams", "crf", "evaluation", "disk", "end_to_end", "growth")


def test_all_run_once_a_turn_in_alternating_order() -> None:
    calls: list[str] = []
    seconds = iter([1.0, 10.0, 30.0, 2.0, 6.0, 20.0])

    def contestant(name: str) -> float:
        calls.append(name)
        return next(seconds)

    found = measure.take_turns({"a": lambda: contestant("a"), "b": lambda: contestant("b")}, turns=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": 2.0, "b": 20.0}  # medians of 1, 2, 6 and of 10, 30, 20


def test_table() -> None:
    columns = {"name": ("way", "{}"), "rate": ("images/s", "{:.1f}")}
    rows = [{"name": "plain", "rate": 12.345, "more": 1}, {"name": "a", "rate": None}]
    assert measure.table(rows, columns).splitlines() == [
        "| way   | images/s |",
        "| ----- | -------- |",
        "| plain | 12.3     |",
        "| a     | -        |",
    ]


def test_record(tmp_path: Path) -> None:
    found = measure.machine()
    measure.write_record(tmp_path / "r.json", "x", found, {"turns": 3}, [{"a": 1.5}])
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["benchmark"] == "x" and record["settings"] == {"turns": 3} and record["rows"] == [{"a": 1.5}]
    assert record["machine"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert record["machine"]["cores"] == os.cpu_count() and record["machine"]["processor"]


def test_cores_are_given_back() -> None:
    allowed, threads = measure.available_cores(), torch.get_num_threads()
    environment = os.environ.get("OMP_NUM_THREADS")
    with measure.cores(1):
        assert torch.get_num_threads() == 1 and os.environ["OMP_NUM_THREADS"] == "1"
        if hasattr(os, "sched_getaffinity"):
            assert measure.available_cores() == allowed[:1]
    assert measure.available_cores() == allowed and torch.get_num_threads() == threads
    assert os.environ.get("OMP_NUM_THREADS") == environment


def test_a_record_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r.json"):
        with pytest.raises(UserError, match="--json"):
            measure.begin(argparse.Namespace(json=path))


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--threads", "100000"], "--threads 100000: "),
        (["--json", "."], "--json .: a folder"),
        (["--threads", "0"], "expected 1 or more"),
    ],
)
def test_a_mistake_is_one_line(name: str, options: list[str], told: str, command: Command) -> None:
    ended = command(f"benchmarks.{name}", *options)
    assert ended.code == 2 and told in ended.err and ended.err.count("\n") == 1 and not ended.out


def test_no_benchmark_imports_torch_before_it_runs() -> None:
    modules = ", ".join(f"benchmarks.{name}" for name in BENCHMARKS)
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'cv2', 'numba', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


SLEEPER = """
import time
def main(argv):
    held = bytearray(int(argv[0]) * 1_000_000)
    held[::4096] = bytes([1]) * len(held[::4096])
    time.sleep(float(argv[1]))
    return int(argv[2])
"""


def test_fresh_processes_report_their_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process holds far more than the one it starts."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    held = b"1" * 400_000_000
    (small, large), whole = run_fresh(("sleeper", ["1", "0.2", "0"]), ("sleeper", ["150", "0", "0"]))
    assert len(held) / 1e6 > 2 * small.peak_mb and small.peak_mb + 120 < large.peak_mb < 350
    assert small.seconds >= 0.2 and whole > small.seconds + large.seconds
    with pytest.raises(UserError, match="sleeper"):
        run_fresh(("sleeper", ["1", "0", "3"]))
