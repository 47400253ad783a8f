"""The CAM stage against a plain transcription of the method: images a second, agreement, share of the floor.

python -m benchmarks.cams [--quick] [--json FILE] [--threads 2] [--device auto] [--models ViT-B/16 toy]

Both go from the same image files and labels to their own files of maps, with the same weights; loading the model and
encoding the prompts are not counted, nor is the first pass, which warms up and from which the maps are compared.
The floor is the time that the matrix products of the method take alone, in the precision of the row (flops.py).
On a GPU our list repeats the photos until it is long, and with --readers the clock starts at the first image done.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import measure
from cli import console
from common.arguments import count, positive
from common.errors import EXIT_INCOMPLETE, EXIT_OK

MODELS = ("ViT-B/16", "toy")


@dataclass(frozen=True)
class Way:
    """One way to run our stage, a row of the table: images a batch, and what it changes in CamSettings."""

    batch_size: int = 1
    changes: dict[str, Any] = field(default_factory=dict)


# What `--ways` names; a new option of the stage gets its line here.
WAYS = {
    "float32": Way(),
    "float32-b8": Way(8),
    "float32-compiled": Way(1, {"compile": True}),
    "bfloat16": Way(1, {"precision": "bfloat16"}),
    "float32-b16": Way(16),
    "bfloat16-b16": Way(16, {"precision": "bfloat16"}),
    "float16-b16": Way(16, {"precision": "float16"}),
    "float16-b16-compiled": Way(16, {"precision": "float16", "compile": True}),
}
DEFAULT_WAYS = {
    "cpu": ("float32", "float32-b8", "float32-compiled", "bfloat16"),
    "cuda": ("float32-b16", "bfloat16-b16", "float16-b16", "float16-b16-compiled"),
}

COLUMNS: measure.Columns = {
    "model": ("model", "{}"),
    "way": ("ours", "{}"),
    "images_per_s": ("images/s", "{:.3g}"),
    "plain_images_per_s": ("plain, images/s", "{:.3g}"),
    "ratio": ("ratio", "{:.2f}"),
    "gflop_per_s": ("GFLOP/s", "{:.0f}"),
    "gflop_per_s_of_products": ("products alone", "{:.0f}"),
    "share_of_floor": ("share of the floor", "{:.0%}"),
    "max_cam": ("max diff. CAM", "{:.1e}"),
    "max_attn": ("refined", "{:.1e}"),
    "equal_maps": ("maps within 1e-3", "{:.1%}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("The CAM stage against a plain transcription of CLIP-ES, and against the floor.", True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="random ViT-B/16, toy world")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), help="how ours runs; not given: by device")
    parser.add_argument("--photos", type=positive, help="how many; not given: 8, with --quick 2")
    parser.add_argument("--repeat", type=positive, help="our list is the photos so often; not given: 1, on a GPU 250")
    parser.add_argument("--turns", type=positive, help="not given: 3, with --quick 1")
    parser.add_argument("--readers", type=count, default=0, help="of our stage: processes that read; 0: threads")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    measure.begin(args)
    from benchmarks.material import photos
    from clip.device import pick_device

    device = pick_device(args.device)
    turns = args.turns or (1 if args.quick else 3)
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder = Path(name)
        found, chosen = measure.machine(device), photos(args.photos or (2 if args.quick else 8), folder)
        print(measure.headline(f"CAM stage: {chosen.source}, medians of {turns} turns", args.threads, found))
        rows = [row for model in args.models for row in _rows(args, model, chosen, folder, device, turns)]
    print(measure.table(rows, COLUMNS))
    settings = {"photos": chosen.source, "turns": turns, "threads": args.threads, "readers": args.readers}
    measure.write_record(args.json, "cams", found, settings, rows)
    return _verdict(rows)


def _rows(
    args: argparse.Namespace, model: str, photos: Any, folder: Path, device: Any, turns: int
) -> list[dict[str, Any]]:
    """The rows of one model."""
    from dataclasses import replace

    from benchmarks.cam_race import Race, cam_job
    from benchmarks.material import model_file

    weights = model_file(model, folder)
    job = cam_job(weights, photos, folder / "ours", device)
    names = args.ways or DEFAULT_WAYS.get(device.type, DEFAULT_WAYS["cpu"])[: 1 if args.quick else None]
    jobs = {
        name: replace(job, batch_size=WAYS[name].batch_size, settings=replace(job.settings, **WAYS[name].changes))
        for name in names
    }
    repeat = args.repeat or (1 if args.quick or device.type == "cpu" else 250)
    race = Race(weights, photos.samples(), folder, device, repeat, args.readers)
    return [{"model": model, **row} for row in race.run(jobs, turns)]


def _verdict(rows: Sequence[measure.Row]) -> int:
    """Times of two programs mean something together only where both do the same."""
    wrong = [row for row in rows if row["precision"] == "float32" and row["equal_maps"] < 1]
    for row in wrong:
        print(f"error: {row['model']}, {row['way']}: the maps are not those of the transcription", file=sys.stderr)
    return EXIT_INCOMPLETE if wrong else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
