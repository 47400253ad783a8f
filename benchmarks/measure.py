"""What every benchmark shares: options, cores, turns, fresh processes, the machine, tables, records."""

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cli import console
from cli.options import Parser
from common.arguments import positive
from common.errors import UserError
from common.files import check_place, write_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"torch", "numpy", "numba", "opencv-python-headless", "pillow", "open_clip_torch", "pydensecrf2"}
THREADS = 2  # what the project's own figures are measured with
Command = tuple[str, list[str]]  # a module with a main(argv), and its arguments
Name = TypeVar("Name")
Row = Mapping[str, Any]
Columns = Mapping[str, tuple[str, str]]  # key of a row -> its heading and its format, such as "{:.1f}"


def parser_of(description: str, device: bool = False) -> Parser:
    """A parser with --quick, --json, --threads and, with `device`, --device."""
    parser = Parser(description)
    parser.add_argument("--quick", action="store_true", help="few images and turns, to try it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--threads", type=positive, default=THREADS, help="cores that the measured work may use")
    if device:
        parser.add_argument("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1")
    return parser


def command(
    parse: Callable[[list[str] | None], argparse.Namespace], work: Callable[[argparse.Namespace], int]
) -> Callable[..., int]:
    """The `main(argv=None)` of a benchmark: a user's mistake is one line and exit code 2, a wrong --json at once."""

    def main(argv: list[str] | None = None) -> int:
        args = parse(argv)

        def run() -> int:
            check_place(args.json, "--json", "figures.json")
            return work(args)

        return console.run(run)

    return main


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Within the block torch and OpenCV use `count` threads, and this process and its children no more cores.

    Without the second, reading and writing beside the model would run on cores that nobody counts. Enter it before
    anything computes: threads that run already keep the cores they had.
    """
    import cv2
    import torch

    can_limit = hasattr(os, "sched_setaffinity")
    allowed = sorted(os.sched_getaffinity(0)) if can_limit else list(range(os.cpu_count() or 1))
    if count > len(allowed):
        raise UserError(f"--threads {count}: this process may use {len(allowed)} cores; give it no more than those")
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    if can_limit:
        os.sched_setaffinity(0, allowed[:count])
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
        if can_limit:
            os.sched_setaffinity(0, allowed)


def machine(device: object = "cpu") -> dict[str, Any]:
    """What the figures depend on: processor, cores, GPU, versions, the commit (with + where files were changed)."""
    cpuinfo, gpu = Path("/proc/cpuinfo"), str(device)
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    if gpu.startswith("cuda"):
        import torch

        gpu = torch.cuda.get_device_name(gpu)
    git = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "device": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {item.name: item.version for item in metadata.distributions() if item.name in PACKAGES},
        "commit": commit or None,
    }


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, giving the seconds it took."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def take_turns(contestants: Mapping[Name, Callable[[], float]], turns: int) -> dict[Name, float]:
    """Median seconds of each contestant. All run once a turn, in an order that is reversed from turn to turn, so that
    a machine that slows down slows all of them down."""
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    for turn in range(turns):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            seconds[name].append(contestants[name]())
    return {name: statistics.median(values) for name, values in seconds.items()}


class Usage(NamedTuple):
    """One command: seconds, and the most memory that the process, or one it started, had held when it ended."""

    seconds: float
    peak_mb: float


def run_fresh(*commands: Command) -> tuple[list[Usage], float]:
    """Run the commands one after the other in one new process; what each took, and the seconds of the whole process.

    That process runs this file and reports on itself: asked from outside, the system would count the memory of the
    process that started it too. Raises UserError with the last line of stderr when one does not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        call = [sys.executable, "-m", "benchmarks.measure", str(report), json.dumps(commands)]
        start = time.perf_counter()
        result = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if result.returncode != 0:
            last = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
            raise UserError(f"{', '.join(module for module, _ in commands)}: {last}")
        return [Usage(*values) for values in json.loads(report.read_text(encoding="utf-8"))], seconds


def _run_here(report: str, commands: str) -> int:
    """In the new process: run the commands, given as JSON, and write the report."""
    usages: list[Usage] = []
    for module, arguments in json.loads(commands):
        start = time.perf_counter()
        if code := importlib.import_module(module).main(arguments):
            return int(code)
        usages.append(Usage(time.perf_counter() - start, _peak_mb()))
    write_text(Path(report), json.dumps(usages))
    return 0


def _peak_mb() -> float:
    """The most memory (MB, resident) that this process, or one it waited for, has held.

    Linux says it of this program alone; getrusage would also count the one that started it.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    children, process = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        process = int(lines["VmHWM"].split()[0])
    return max(process, children) * unit / 1e6


def headline(what: str, threads: int, machine: Row) -> str:
    """What is measured, on what; warns of a machine that has other work."""
    load, count = machine["load"][0], machine["cores"]
    if count and load > count / 2:
        print(f"warning: load {load} on {count} cores: other work disturbs these times", file=sys.stderr)
    on = machine["processor"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['processor']}"
    return f"{what}; {threads} {'thread' if threads == 1 else 'threads'} on {on}\n"


def table(rows: Sequence[Row], columns: Columns) -> str:
    """The rows as a table in Markdown, aligned; what a row does not have is a dash."""
    lines = [[heading for heading, _ in columns.values()]]
    for row in rows:
        values = [(row.get(key), form) for key, (_, form) in columns.items()]
        lines.append(["-" if value is None else form.format(value) for value, form in values])
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines)


def write_record(path: Path | None, benchmark: str, machine: Row, settings: Row, rows: Sequence[Row]) -> None:
    """The figures as JSON, with the machine and the settings they were measured with. Nothing without a path."""
    if path is not None:
        record = {"benchmark": benchmark, "machine": machine, "settings": settings, "rows": list(rows)}
        write_text(path, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(_run_here(*sys.argv[1:]))
