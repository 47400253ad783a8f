"""The check of the GPU: its verdicts, and a dry run of all of it on the CPU."""

import json
import subprocess
import sys
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


@pytest.mark.slow
def test_a_dry_run_on_the_cpu(tmp_path: Path) -> None:
    """By the script itself. On one device all is equal, to the last bit but for the CRF's two backends."""
    argv = ["--device", "cpu", "--quick", "--threads", "1", "--json", str(tmp_path / "r.json")]
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    script = ["bash", str(ROOT / "benchmarks/gpu.sh"), *argv]
    ended = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    maps = ["clip-es", "maskclip", *(name for name in gpu.DENSE if name not in gpu.DEEP)]
    roads = ["scripts.run, toy world", "scripts.run, PAMR, CRF, votes", "segment-anything, ViT-B"]
    others = ["CRF, torch against numba", *roads, "training, SegFormer"]
    assert [row["what"] for row in rows] == [*(f"CAM, {name}" for name in maps), *others]
    assert [row["value"] for row in rows if row["what"][:3] != "CRF"] == [1] * (len(maps) + len(roads)) + [0]
    assert all(row["verdict"] == "ok" for row in rows) and ended.stdout.count("| ok ") == len(rows)
