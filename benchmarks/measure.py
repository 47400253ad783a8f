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
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from cli import console
from cli.options import Parser
from common.arguments import positive
from common.errors import UserError
from common.files import need_writable, write_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "numba", "opencv-python-headless", "pillow", "open_clip_torch", "pydensecrf2")
THREADS = 2  # what the project's own figures are measured with
Command = tuple[str, list[str]]  # a module with a main(argv), and its arguments
Name = TypeVar("Name")
Row = Mapping[str, Any]
Columns = Mapping[str, tuple[str, str]]  # key of a row -> its heading and how it is written, such as "{:.1f}"


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
    """The `main(argv=None)` of a benchmark: errors of the user become one line and exit code 2."""

    def main(argv: list[str] | None = None) -> int:
        args = parse(argv)

        def run() -> int:
            begin(args)
            return work(args)

        return console.run(run)

    return main


def begin(args: argparse.Namespace) -> None:
    """Refuse a --json that could not be written, before anything is measured."""
    if args.json is not None:
        if args.json.is_dir():
            raise UserError(f"--json {args.json}: a folder; give the name of a file")
        need_writable(args.json.absolute().parent, "--json")


# --- the machine ----------------------------------------------------------------------------------


@contextmanager
def cores(count: int) -> Iterator[None]:
    """As many threads for torch and OpenCV, and, where the system can, no more cores for this process and its children.

    Without the second, reading and writing beside the model would run on cores that nobody counts. Enter it before
    anything computes: threads that run already keep the cores they had. All is put back on the way out.
    """
    import cv2
    import torch

    allowed = available_cores()
    if count > len(allowed):
        raise UserError(f"--threads {count}: this process may use {len(allowed)} cores; give it no more than those")
    before = torch.get_num_threads(), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")
    _use(count, count, str(count), allowed[:count])
    try:
        yield
    finally:
        _use(*before, allowed)


def _use(torch_threads: int, cv2_threads: int, environment: str | None, cpus: Sequence[int]) -> None:
    import cv2
    import torch

    torch.set_num_threads(torch_threads)
    cv2.setNumThreads(cv2_threads)
    os.environ.pop("OMP_NUM_THREADS", None)
    if environment is not None:  # for the processes that are started from here
        os.environ["OMP_NUM_THREADS"] = environment
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine(device: object = "cpu") -> dict[str, Any]:
    """What the figures depend on: processor, cores, GPU, versions, the commit, and how busy it was."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "device": _device_name(str(device)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with + where files were changed; None without git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


# --- measuring ------------------------------------------------------------------------------------


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


# --- fresh processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """One command: seconds, and the most memory that the process, or one it started, had held when it ended."""

    seconds: float
    peak_mb: float


def run_fresh(*commands: Command) -> tuple[list[Ran], float]:
    """Run the commands one after the other in one new process; what each took, and the seconds of the whole process.

    That process runs this file and reports on itself: asked from outside, the system would count the memory of the
    process that started it too. Raises UserError with the last line of stderr when one does not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        call = [sys.executable, "-m", "benchmarks.measure", str(report), json.dumps(commands)]
        start = time.perf_counter()
        ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if ended.returncode != 0:
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            raise UserError(f"{', '.join(module for module, _ in commands)}: {last}")
        return [Ran(**one) for one in json.loads(report.read_text(encoding="utf-8"))], seconds


def run_here(report: str, commands: str) -> int:
    """In the new process: run the commands, given as JSON, and write the report."""
    done: list[Ran] = []
    for module, arguments in json.loads(commands):
        start = time.perf_counter()
        if code := importlib.import_module(module).main(arguments):
            return int(code)
        done.append(Ran(time.perf_counter() - start, peak_mb()))
    write_text(Path(report), json.dumps([asdict(one) for one in done]))
    return 0


def peak_mb() -> float:
    """The most memory (MB, resident) that this process, or one it waited for, has held.

    Linux says it of this program alone; getrusage would also count the one that started it.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii").splitlines() if status.is_file() else ():
        if line.startswith("VmHWM"):
            own = int(line.split()[1]) * 1024
    return max(own, children) / 1e6


# --- output --------------------------------------------------------------------------------------


def headline(what: str, threads: int, found: Row) -> str:
    """What is measured, on what; warns of a machine that has other work."""
    load, count = found["load"], found["cores"]
    if load and count and load[0] > count / 2:
        print(f"warning: load {load[0]} on {count} cores: other work disturbs these times", file=sys.stderr)
    on = found["processor"] if found["device"] == "cpu" else f"{found['device']}, {found['processor']}"
    return f"{what}; {threads} {'thread' if threads == 1 else 'threads'} on {on}\n"


def table(rows: Sequence[Row], columns: Columns) -> str:
    """The rows as a table in Markdown, aligned; what a row does not have is a dash."""
    lines = [[heading for heading, _ in columns.values()]]
    lines += [[_cell(row.get(key), form) for key, (_, form) in columns.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines)


def _cell(value: object, form: str) -> str:
    return "-" if value is None else form.format(value)


def write_record(path: Path | None, benchmark: str, found: Row, settings: Row, rows: Sequence[Row]) -> None:
    """The figures as JSON, with the machine and the settings they were measured with. Nothing without a path."""
    if path is not None:
        record = {"benchmark": benchmark, "machine": found, "settings": settings, "rows": list(rows)}
        write_text(path, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_here(*sys.argv[1:]))
