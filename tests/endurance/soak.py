"""Thousands of images, one in twenty of them broken: what is whole gets its mask, what is broken is named.

python -m tests.endurance.soak [--images 2000] [--share 0.05] [--quick] [--json FILE]

Generates a data set of scenes of the toy world under many names, with images of odd kinds among them, and breaks some
of the images and annotations in every way of tests/endurance/broken.py. Both roads, generate_cams.py with
eval_cam_with_crf.py and scripts.run, work on it as a user starts them; before the second stage CAM files that mean harm
are put where broken annotations left none. In the end

- each command ended with exit code 3, without a traceback, and nothing that it was given was run
- exactly the whole images have CAM files and masks: byte for byte those of the same images in a run of their own, in
  another order, without any broken one; masks have the size of their images
- exactly the broken ones are named in failures.jsonl, in the order of the list, and the counts of run.json add up
- there is no other file, and nothing outside the output folders was touched
- the peak memory is that of a tenth of the list, within --margin MB (not looked at with --quick)
- a list with an id that leaves its folder is refused before anything is written

The exit code is 0 if all of that holds, else 3.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from benchmarks.started import bound_by_rights, started
from cli import console
from cli.run_log import FAILURES_FILE
from cli.run_record import RUN_FILE
from common.arguments import positive, share
from common.errors import EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE, UserError
from common.files import files_below

if TYPE_CHECKING:
    from tests.endurance.broken import Break
    from tests.endurance.soak_data import DataSet, Source

CAMS, CRF, RUN = "generate_cams.py", "eval_cam_with_crf.py", "scripts.run"
DIFFERENT = 100  # scenes; the others are copies of them
MARGIN_MB = 64  # threads and allocators take that much more or less from run to run
SECRET = "zeppelin-4711"  # in a file that an annotation would like to show
SHOWN = 5  # troubles of a row that are printed

COLUMNS: measure.Columns = {
    "command": ("command", "{}"),
    "images": ("images", "{:,}"),
    "broken": ("of them broken", "{:,}"),
    "code": ("exit code", "{}"),
    "right": ("right files", "{:,}"),
    "named": ("named failures", "{:,}"),
    "wrong": ("wrong", "{}"),
    "seconds": ("seconds", "{:.0f}"),
    "peak_mb": ("peak MB", "{:.0f}"),
}
KIND_COLUMNS: measure.Columns = {
    "kind": ("broken how", "{}"),
    "count": ("times", "{}"),
    "said": ("what is said of it", "{}"),
}
Row = dict[str, Any]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Both roads on a long list with broken images in it: nothing may be lost.")
    parser.add_argument("--images", type=positive, help="length of the list; not given: 2000, with --quick 60")
    parser.add_argument("--share", type=share, default=0.05, help="of broken images, one of each kind at least")
    parser.add_argument("--margin", type=positive, default=MARGIN_MB, help="MB by which the peak memory may grow")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    measure.begin(args)
    from tests.endurance.broken import all_breaks

    count, prefix = args.images or (60 if args.quick else 2000), bound_by_rights()
    breaks = all_breaks(with_rights=prefix is not None)
    if count < 1.5 * len(breaks):
        raise UserError(f"--images {count}: there are {len(breaks)} ways to break one; take more images")
    with TemporaryDirectory() as name:
        bench = Bench(Path(name).resolve(), 20 if args.quick else DIFFERENT, breaks, args.share, prefix or [])
        found = measure.machine()
        print(f"Soak: {count:,} images, {len(breaks)} ways to break them; toy CLIP, one thread\n")
        lengths = [count] if args.quick else [max(count // 10, 2 * len(breaks)), count]
        rows = [*(row for length in lengths for row in bench.soak(length)), bench.outside_id()]
    check_growth(rows, args.margin)
    print(measure.table(rows, COLUMNS), measure.table(bench.kinds(), KIND_COLUMNS), sep="\n\n")
    tell(rows)
    settings = {"images": count, "share": args.share, "margin_mb": args.margin, "kinds": bench.kinds()}
    measure.write_record(args.json, "soak", found, settings, rows)
    return EXIT_INCOMPLETE if any(row["troubles"] for row in rows) else EXIT_OK


def tell(rows: Sequence[Row]) -> None:
    """What went wrong, on stderr."""
    for row in rows:
        for trouble in row["troubles"][:SHOWN]:
            print(f"{row['command']}, {row['images']} images: {trouble}", file=sys.stderr)
        if len(row["troubles"]) > SHOWN:
            print(f"... and {len(row['troubles']) - SHOWN} more", file=sys.stderr)


def check_growth(rows: Sequence[Row], margin: float) -> None:
    """A command whose peak on a longer list is higher than on a shorter one, by more than the margin, is in trouble."""
    first: dict[str, float] = {}
    for row in rows:
        if row["peak_mb"] is not None:
            grown = row["peak_mb"] - first.setdefault(row["command"], row["peak_mb"])
            if grown > margin:
                add_troubles(row, [f"its peak memory grew by {grown:.0f} MB"])


def add_troubles(row: Row, troubles: Sequence[str]) -> None:
    row["troubles"] = [*row["troubles"], *troubles]
    row["wrong"] = len(row["troubles"])


# --- the runs -------------------------------------------------------------------------------------


@dataclass
class Bench:
    """What all runs share.

    different  how many scenes there are
    prefix     before every command, so that it is bound by the rights of files
    reasons    by way to break: how often it was seen, and what was said of the last one
    """

    folder: Path
    different: int
    breaks: "Mapping[str, Break]"
    share: float
    prefix: list[str]
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)

    @cached_property
    def sources(self) -> "list[Source]":
        from tests.endurance.soak_data import make_sources

        return make_sources(self.folder / "sources", self.different)

    @cached_property
    def reference(self) -> dict[str, dict[str, bytes]]:
        """The files of the sources, made without any broken image in a run of their own: by suffix and name."""
        root, cams, masks = (self.folder / name for name in ("sources", "own cams", "own masks"))
        for argv in (cams_argv(root, cams), crf_argv(root, cams, masks)):
            with started(argv) as running:
                if running.wait() != EXIT_OK:
                    raise UserError(f"{argv[0]} on whole images: {running.said[-300:]}")
        names = [source.name for source in self.sources]
        found = {".npz": cams, ".png": masks}
        return {suffix: {name: (at / f"{name}{suffix}").read_bytes() for name in names} for suffix, at in found.items()}

    def soak(self, count: int) -> list[Row]:
        """All commands on a list of `count` images; a row each."""
        from tests.endurance.soak_data import make_set

        root, outside = self.folder / f"{count}", self.folder / f"{count}" / "outside"
        outside.mkdir(parents=True)
        (outside / "secret.txt").write_text(SECRET)
        data = make_set(root, outside, self.sources, self.breaks, count, self.share)
        cams, masks = root / "cams", root / "masks"
        rows = [self.row(CAMS, data, cams_argv(root, cams), cams, ".npz")]
        self.note_reasons(data.broken, cams)
        harm = self.put_cam_files(data, cams, outside / "code was run")
        rows += [self.row(CRF, data, crf_argv(root, cams, masks), masks, ".png")]
        self.note_reasons(harm, masks)
        rows += [self.row(RUN, data, run_argv(root, root / "run"), root / "run", ".png")]
        if (outside / "code was run").exists():
            add_troubles(rows[1], ["a CAM file ran code"])
        return rows

    def put_cam_files(self, data: "DataSet", cams: Path, mark: Path) -> dict[str, str]:
        """Harmful CAM files for the ids whose annotation is broken and whose image is whole; the way of each."""
        from tests.endurance.broken import cam_files

        ways, good = list(cam_files(mark).items()), self.reference[".npz"]["scene_000"]
        ids = [image_id for image_id, kind in data.broken.items() if kind.startswith("xml_")]
        harm = {image_id: ways[number % len(ways)] for number, image_id in enumerate(ids)}
        for image_id, (_, of_good) in harm.items():
            (cams / f"{image_id}.npz").write_bytes(of_good(good))
        return {image_id: name for image_id, (name, _) in harm.items()}

    def row(self, command: str, data: "DataSet", argv: Sequence[object], out: Path, suffix: str) -> Row:
        """Run a command on a list and look at all that it left."""
        before, start = states(data.root, out), time.monotonic()
        with started(argv, self.prefix) as running:
            code = running.wait()
        seconds = time.monotonic() - start
        wanted = {f"{image_id}{suffix}": self.reference[suffix][source.name] for image_id, source in data.whole.items()}
        right, troubles = compare_files(out, wanted)
        named, more = compare_failures(out, data)
        troubles += more + compare_sizes(out, data, suffix) + compare_output(running.said, code)
        if states(data.root, out) != before:
            troubles.append("files outside its output folder were changed")
        found = {"command": command, "images": len(data.ids), "broken": len(data.broken), "code": code}
        found |= {"right": right, "named": named, "wrong": len(troubles), "seconds": seconds}
        return {**found, "peak_mb": running.peak_mb, "troubles": troubles}

    def note_reasons(self, ways: Mapping[str, str], out: Path) -> None:
        """Keep what was said of each way to break, by id."""
        for failure in read_failures(out):
            if way := ways.get(failure["id"]):
                seen, _ = self.reasons.get(way, (0, ""))
                self.reasons[way] = seen + 1, without_path(failure["reason"], failure["id"], out.parent)

    def kinds(self) -> list[Row]:
        return [{"kind": kind, "count": count, "said": said} for kind, (count, said) in self.reasons.items()]

    def outside_id(self) -> Row:
        """A list in which one id leaves the folder of images."""
        out, split = self.folder / "nothing", self.folder / "outside.txt"
        split.write_text(f"{self.sources[0].name}\n../outside/secret\n")
        with started([*cams_argv(self.folder / "sources", out), "--split_file", split]) as running:
            code = running.wait()
        troubles = [] if code == EXIT_USAGE else [f"exit code {code} instead of {EXIT_USAGE}"]
        troubles += ["it wrote files"] if list(files_below(out)) else []
        troubles += [f"it said {running.said[-200:]}"] if running.said.count("\n") != 1 else []
        found = {"command": f"{CAMS}, an id with ../", "images": 2, "broken": 1, "code": code, "right": 0, "named": 0}
        return {**found, "wrong": len(troubles), "seconds": None, "peak_mb": None, "troubles": troubles}


def cams_argv(root: Path, out: Path) -> list[object]:
    return [CAMS, "--img_root", root, "--cam_out_dir", out, "--device", "cpu"]


def crf_argv(root: Path, cams: Path, out: Path) -> list[object]:
    return [CRF, "--img_root", root, "--cam_out_dir", cams, "--pseudo_mask_save_path", out, "--device", "cpu"]


def run_argv(root: Path, out: Path) -> list[object]:
    return ["-m", RUN, "--img_root", root, "--pseudo_mask_save_path", out, "--device", "cpu"]


# --- what is looked at ----------------------------------------------------------------------------


def compare_files(out: Path, wanted: Mapping[str, bytes]) -> tuple[int, list[str]]:
    """How many files are as they should be, and what is wrong with the others; there are two that every run leaves."""
    found = {Path(path).relative_to(out).as_posix() for path in files_below(out)} - {RUN_FILE, FAILURES_FILE}
    troubles = [f"{name}: missing" for name in wanted if name not in found]
    troubles += [f"{name}: nobody asked for it" for name in sorted(found) if name not in wanted]
    other = [name for name in wanted if name in found and (out / name).read_bytes() != wanted[name]]
    return len(wanted.keys() & found) - len(other), [*troubles, *(f"{name}: other bytes" for name in other)]


def compare_failures(out: Path, data: "DataSet") -> tuple[int, list[str]]:
    """How many broken images are named, and what is wrong with the lists and the counts."""
    named, broken = [failure["id"] for failure in read_failures(out)], list(data.broken)
    troubles = [f"{image_id[:80]}: not named" for image_id in broken if image_id not in named]
    troubles += [f"{image_id}: named without reason" for image_id in named if image_id not in data.broken]
    if not troubles and named != broken:
        troubles = ["failures.jsonl: not in the order of the list, or some twice"]
    try:
        record = json.loads((out / RUN_FILE).read_bytes())
        told = record["status"], {key: record["counts"][key] for key in ("images", "made", "kept", "failed")}
    except (OSError, ValueError, KeyError) as error:
        return len(named), [*troubles, f"run.json: {error}"]
    counts = {"images": len(data.ids), "made": len(data.whole), "kept": 0, "failed": len(broken)}
    return len(named), troubles if told == ("incomplete", counts) else [*troubles, f"run.json: {told}"]


def compare_sizes(out: Path, data: "DataSet", suffix: str) -> list[str]:
    """Masks that do not have the size of their images."""
    from PIL import Image

    troubles = []
    for image_id, source in data.whole.items() if suffix == ".png" else ():
        try:
            with Image.open(out / f"{image_id}.png") as mask:
                size, mode = mask.size[::-1], mask.mode
        except OSError:
            continue  # told as missing
        if (size, mode) != (source.size, "L"):
            troubles.append(f"{image_id}.png: {mode}, {size} for an image of {source.size}")
    return troubles


def compare_output(said: str, code: int | None) -> list[str]:
    """What is wrong with how a command ended and what it said."""
    troubles = [] if code == EXIT_INCOMPLETE else [f"exit code {code}: {said[-200:]}"]
    return troubles + [f"it said {word!r}" for word in ("Traceback", SECRET) if word in said]


def read_failures(out: Path) -> list[dict[str, str]]:
    path = out / FAILURES_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def without_path(reason: str, image_id: str, root: Path) -> str:
    """A reason as it reads in a table."""
    return reason.replace(f"{root}/", "").replace(image_id, "ID").replace("|", "/")[:160]


def states(root: Path, out: Path) -> dict[str, tuple[int, ...]]:
    """Name, size, time and rights of everything below a folder but for one of its folders."""
    found = {}
    for path in sorted(root.rglob("*")):
        if not path.is_relative_to(out):
            state = path.lstat()
            times = () if path.is_dir() else (state.st_size, state.st_mtime_ns)
            found[str(path)] = (state.st_mode, *times)
    return found


if __name__ == "__main__":
    sys.exit(main())
