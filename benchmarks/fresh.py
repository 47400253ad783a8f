"""Commands in a process of their own: how long they took and how much memory that process ever held.

`run_fresh` is for benchmarks. The new process runs this file, which runs the commands and reports on itself: asked from
outside, the system would count the memory of the process that started it too.
"""

import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import ROOT
from common.errors import UserError

Command = tuple[str, list[str]]  # a module with a main(argv), and its arguments


@dataclass(frozen=True)
class Ran:
    """One command: seconds, and the most memory that the process, or one it started, had held when it ended."""

    seconds: float
    peak_mb: float


def run_fresh(*commands: Command) -> tuple[list[Ran], float]:
    """Run the commands one after the other in one new process; what each took, and the seconds of the whole process.

    Raises UserError with the last line of stderr when one does not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        call = [sys.executable, "-m", "benchmarks.fresh", str(report), json.dumps(commands)]
        start = time.perf_counter()
        ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if ended.returncode != 0:
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            raise UserError(f"{', '.join(module for module, _ in commands)}: {last}")
        return [Ran(**one) for one in json.loads(report.read_text(encoding="utf-8"))], seconds


def main(argv: list[str] | None = None) -> int:
    """In the new process: a file for the report, and the commands as JSON."""
    report, commands = argv or sys.argv[1:]
    done: list[Ran] = []
    for module, arguments in json.loads(commands):
        start = time.perf_counter()
        code = importlib.import_module(module).main(arguments)
        if code:
            return int(code)
        done.append(Ran(time.perf_counter() - start, peak_mb()))
    Path(report).write_text(json.dumps([asdict(one) for one in done]), encoding="utf-8")
    return 0


def peak_mb() -> float:
    """The most memory (MB, resident) that this process, or one it waited for, has held.

    Linux tells it of this program alone; getrusage would also tell of the one that started it.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return max(_own_peak(unit), children) / 1e6


def _own_peak(unit: int) -> int:
    status = Path("/proc/self/status")
    lines: Sequence[str] = status.read_text(encoding="ascii").splitlines() if status.is_file() else ()
    told = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return told[0] if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main())
