"""How long commands take to start: `python -m benchmarks.start`.

CPU seconds (user and system) of a command's process and of those that it starts, beside those of
`python -c "import torch"`: the median of a few turns. CPU seconds hardly depend on what else the machine does, and the
ratio hardly on how fast it is. Everything has run once before: CAM files are there, prompts are encoded, kernels are
compiled.

    generate_cams.py          the toy world's 60 images, nothing left to do
    scripts.segment           one photo of VOC's size, random weights of ViT-B/16
    eval_cam.py               the toy world's 60 images
    eval_cam_with_crf.py      the toy world's 60 images, which it scores, nothing left to do, on the CPU
    --help                    of every command; in seconds
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, command, headline, machine, parser_of, table, take_turns, write_record
from common.errors import EXIT_OK, UserError

TURNS = 5
TORCH = "import torch"
BARS = {"generate_cams.py": 1.5, "scripts.segment": 2.2, "eval_cam.py": 0.6, "eval_cam_with_crf.py": 0.6}  # of torch's
HELP_BAR_S = 0.3
COLUMNS = {
    "command": ("command", "{}"),
    "seconds": ("CPU s", "{:.2f}"),
    "ratio": ("of import torch", "{:.2f}"),
    "bar": ("at most", "{}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    return parser_of("CPU seconds that commands take, beside importing torch.").parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    turns = 1 if args.quick else TURNS
    with tempfile.TemporaryDirectory() as folder:
        contestants = prepared(Path(folder), args.threads)
        contestants |= {f"{name} --help": measured(name, ["--help"]) for name in every_command()}
        rows = rows_of(take_turns(contestants, turns))
    state = machine()
    print(headline(f"starting commands, median of {turns} turns", args.threads, state))
    print(table(rows, COLUMNS))
    write_record(args.json, "start", state, {"threads": args.threads, "turns": turns}, rows)
    return EXIT_OK


def rows_of(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """The table's rows: every command, and of all `--help` the slowest."""
    helps = {name: value for name, value in seconds.items() if name.endswith("--help")}
    slowest = max(helps, key=helps.__getitem__)
    torch = seconds[TORCH]
    rows: list[dict[str, Any]] = [{"command": TORCH, "seconds": torch, "ratio": 1.0}]
    for name, bar in BARS.items():
        rows.append({"command": name, "seconds": seconds[name], "ratio": seconds[name] / torch, "bar": bar})
    label = f"{slowest} (slowest of {len(helps)})"
    rows.append({"command": label, "seconds": helps[slowest], "bar": f"{HELP_BAR_S} s"})
    return rows


def prepared(folder: Path, threads: int) -> dict[str, Callable[[], float]]:
    """What is measured, ready to be run; each has run once in the folder."""
    from benchmarks.material import generated, model_file

    photo = next((generated(1, folder / "photo", classes=2).root / "JPEGImages").glob("*.jpg"))
    weights = model_file("ViT-B/16", folder)
    environment = {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": str(threads)}
    segment = ["--dataset", "voc12", "--labels", "cat", "dog", "--model", str(weights), "--activation", "quick_gelu"]
    commands = {
        "generate_cams.py": ["--device", "cpu"],
        "scripts.segment": [str(photo), *segment, "--device", "cpu", "--out", "masks"],
        "eval_cam.py": [],
        "eval_cam_with_crf.py": ["--device", "cpu"],
    }
    contestants = {TORCH: measured("-c", [TORCH])}
    for name, options in commands.items():
        contestants[name] = measured(name, options, folder, environment)
    for run in contestants.values():
        run()
    return contestants


def every_command() -> list[str]:
    """All commands as they are typed: root scripts by file name, the others by module name."""
    scripts = (path.stem for path in sorted((ROOT / "scripts").glob("*.py")) if path.stem != "__init__")
    return [*(path.name for path in sorted(ROOT.glob("*.py"))), *(f"scripts.{name}" for name in scripts)]


def measured(
    command: str, options: Sequence[str], folder: Path = ROOT, environment: Mapping[str, str] | None = None
) -> Callable[[], float]:
    """A function that runs a command (a root script, a module, or -c) in a folder and returns its CPU seconds."""
    start = [str(ROOT / command)] if command.endswith(".py") else [command] if command == "-c" else ["-m", command]
    argv = [*start, *options]

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(
            [sys.executable, *argv],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise UserError(f"python {' '.join(argv)} ended with {result.returncode}: {result.stderr.strip()[-300:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


main = command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
