"""The check of the GPU: its verdicts, and a dry run of all of it on the CPU."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from tests.support import ROOT, Command


@pytest.mark.parametrize(
    ("value", "limit", "verdict"),
    [
        (0.999, ">= 0.995", "ok"),
        (0.99, ">= 0.995", "OUT OF TOLERANCE"),
        (0.05, "<= 0.05", "ok"),
        (0.06, "<= 0.05", "OUT OF TOLERANCE"),
        (float("nan"), "<= 0.05", "OUT OF TOLERANCE"),
    ],
)
def test_verdicts(value: float, limit: str, verdict: str) -> None:
    row = gpu.row_of("x", 3, (10.0, 4.0), "y", value, limit)
    assert row["verdict"] == verdict and row["ratio"] == 2.5
    assert gpu.row_of("x", 3, (None, 4.0), "y", value, limit)["ratio"] is None


def test_what_is_out_of_tolerance_gives_exit_code_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [gpu.row_of("x", 3, (10.0, 4.0), "y", 0.9, ">= 0.5"), gpu.row_of("z", 3, (10.0, 4.0), "y", 0.1, ">= 0.5")]
    monkeypatch.setattr(gpu, "checks", lambda *_: iter(rows))
    assert command("benchmarks.gpu", "--device", "cpu", "--threads", 1).code == 1
    monkeypatch.setattr(gpu, "checks", lambda *_: iter(rows[:1]))
    assert command("benchmarks.gpu", "--device", "cpu", "--threads", 1).code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line(command: Command) -> None:
    ended = command("benchmarks.gpu")
    assert ended.code == 2 and ended.out == ""
    assert ended.err == "error: --device cuda: not available on this machine; use auto or cpu\n"


def test_the_script_hands_its_options_on() -> None:
    script = ["bash", str(ROOT / "benchmarks/gpu.sh"), "--device", "cpu", "--json", "a file"]
    ended = subprocess.run(script, capture_output=True, env={"PYTHON": "echo", "PATH": "/usr/bin:/bin"}, check=True)
    assert ended.stdout == b"-m benchmarks.gpu --device cpu --json a file\n"


@pytest.mark.slow
def test_a_dry_run_on_the_cpu(command: Command, tmp_path: Path) -> None:
    """On one device all is equal, to the last bit but for the CRF's two backends."""
    argv = ["--device", "cpu", "--quick", "--threads", 1, "--json", tmp_path / "r.json"]
    ended = command("benchmarks.gpu", *argv)
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    maps = ["clip-es", "maskclip", *gpu.DENSE]
    roads = ["scripts.run, toy world", "scripts.run, PAMR, CRF, votes", "segment-anything, ViT-B"]
    others = ["CRF, torch against numba", *roads, "training, SegFormer"]
    assert [row["what"] for row in rows] == [*(f"CAM, {name}" for name in maps), *others]
    assert [row["value"] for row in rows if row["what"][:3] != "CRF"] == [1] * (len(maps) + len(roads)) + [0]
    assert all(row["verdict"] == "ok" for row in rows) and ended.out.count("| ok ") == len(rows)
