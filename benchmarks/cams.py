"""The CAM stage against a plain transcription of the method: images a second and agreement.

python -m benchmarks.cams [--quick] [--json FILE] [--threads 2] [--device auto] [--models ViT-B/16 toy]

Both go from the same image files and labels to their own files of maps, with the same weights; loading the model and
encoding the prompts are not counted, nor is the first pass, which warms up and from which the maps are compared.
On a GPU our list repeats the photos until it is long, and with --readers the clock starts at the first image done.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.material import MODELS, cam_job, model_file, need_all, photos
from benchmarks.plain_clip_es import PlainMaps, PlainModel, load_plain, plain_maps, save
from clip.device import pick_device
from common.arguments import count, positive
from common.errors import EXIT_INCOMPLETE, EXIT_OK
from common.images import read_image
from dataset.spec import Sample
from pipeline.files.cam_file import load_cams
from pipeline.stages import cams as stage_cams
from pipeline.stages.cams import CamWork
from voc12.spec import SPEC

TOLERANCE = 1e-3  # of maps; what we store is rounded to float16, which alone is 5e-4
WAYS: dict[str, tuple[int, dict[str, Any]]] = {  # images a batch, and what is changed in CamSettings
    "float32": (1, {}),
    "float32-b8": (8, {}),
    "float32-compiled": (1, {"compile": True}),
    "bfloat16": (1, {"precision": "bfloat16"}),
    "float32-b16": (16, {}),
    "bfloat16-b16": (16, {"precision": "bfloat16"}),
    "float16-b16": (16, {"precision": "float16"}),
    "float16-b16-compiled": (16, {"precision": "float16", "compile": True}),
}
ON_CPU = ("float32", "float32-b8", "float32-compiled", "bfloat16")
ON_GPU = ("float32-b16", "bfloat16-b16", "float16-b16", "float16-b16-compiled")
COLUMNS: measure.Columns = {
    "model": ("model", "{}"),
    "way": ("ours", "{}"),
    "images_per_s": ("images/s", "{:.3g}"),
    "plain_images_per_s": ("plain, images/s", "{:.3g}"),
    "ratio": ("ratio", "{:.2f}"),
    "max_cam": ("max diff. CAM", "{:.1e}"),
    "max_attn": ("refined", "{:.1e}"),
    "equal_maps": ("maps within 1e-3", "{:.1%}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("The CAM stage against a plain transcription of CLIP-ES.", True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="random ViT-B/16, toy world")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), help="how ours runs; not given: by device")
    parser.add_argument("--photos", type=positive, help="how many; not given: 8, with --quick 2")
    parser.add_argument("--repeat", type=positive, help="our list is the photos so often; not given: 1, on a GPU 250")
    parser.add_argument("--turns", type=positive, help="not given: 3, with --quick 1")
    parser.add_argument("--readers", type=count, default=0, help="of our stage: processes that read; 0: threads")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    device = pick_device(args.device)
    on_cpu = device.type == "cpu"
    turns, repeat = args.turns or (1 if args.quick else 3), args.repeat or (1 if args.quick or on_cpu else 250)
    names = args.ways or (ON_CPU if on_cpu else ON_GPU)[: 1 if args.quick else None]
    rows: list[dict[str, Any]] = []
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder = Path(name)
        machine, chosen = measure.machine(device), photos(args.photos or (2 if args.quick else 8), folder)
        print(measure.headline(f"CAM stage: {chosen.source}, medians of {turns} turns", args.threads, machine))
        for model in args.models:
            weights = model_file(model, folder)
            work = stage_cams.set_up(cam_job(weights, folder / "ours", str(device), readers=args.readers))
            ways = {
                name: replace(work, batch_size=WAYS[name][0], settings=replace(work.settings, **WAYS[name][1]))
                for name in names
            }
            plain = partial(plain_stage, load_plain(weights, SPEC, device), chosen.samples(), folder)
            rows += [{"model": model, **row} for row in race(plain, ways, chosen.samples(), repeat, turns)]
    print(measure.table(rows, COLUMNS))
    settings = {"photos": chosen.source, "turns": turns, "threads": args.threads, "readers": args.readers}
    measure.write_record(args.json, "cams", machine, settings, rows)
    return verdict(rows)


def verdict(rows: Sequence[measure.Row]) -> int:
    """The exit code: times of two programs mean something together only where both do the same."""
    wrong = [row for row in rows if row["precision"] == "float32" and row["equal_maps"] < 1]
    for row in wrong:
        print(f"error: {row['model']}, {row['way']}: the maps are not those of the transcription", file=sys.stderr)
    return EXIT_INCOMPLETE if wrong else EXIT_OK


def race(
    plain: Callable[[], list[PlainMaps]], ways: Mapping[str, CamWork], samples: list[Sample], repeat: int, turns: int
) -> list[dict[str, Any]]:
    """A row for each way of ours; our list is the samples `repeat` times."""
    maps, agreements, many = plain(), {}, samples * repeat
    plain_seconds = measure.timed(plain)
    contestants: dict[str, Callable[[], float]] = {"plain": lambda: plain_seconds() / len(samples)}
    for name, work in ways.items():
        seconds_an_image(work, many)  # warms up
        agreements[name] = agreement(work, samples, maps)
        contestants[name] = partial(seconds_an_image, work, many)
    seconds = measure.take_turns(contestants, turns)
    return [
        {
            "way": name,
            "precision": work.settings.precision,
            "batch_size": work.batch_size,
            "images_per_s": 1 / seconds[name],
            "plain_images_per_s": 1 / seconds["plain"],
            "ratio": seconds["plain"] / seconds[name],
            **agreements[name],
        }
        for name, work in ways.items()
    ]


def plain_stage(model: PlainModel, samples: Sequence[Sample], folder: Path) -> list[PlainMaps]:
    """The transcription over the samples, with its files."""
    results = []
    for sample in samples:
        results.append(plain_maps(model, read_image(sample.image), sample.labels))
        save(folder / f"{sample.id}_plain.npz", results[-1])
    return results


def seconds_an_image(work: CamWork, samples: Sequence[Sample]) -> float:
    """Of our stage, over the whole list or, with readers, whose start does not count, from its first image on."""
    start, done = time.perf_counter(), 0
    for _ in need_all(stage_cams.run(work, samples, set())):
        if work.readers and not done:
            start = time.perf_counter()
        done += 1
    return (time.perf_counter() - start) / max(1, done - bool(work.readers))


def agreement(work: CamWork, samples: Sequence[Sample], plain: Sequence[PlainMaps]) -> dict[str, float]:
    """The largest differences between our files and the transcription's maps, and the share of equal maps."""
    differences: dict[str, list[float]] = {"highres": [], "attn_highres": []}
    for sample, maps in zip(samples, plain):
        for kind, values in differences.items():
            _, ours = load_cams(work.path(sample.id), kind, len(SPEC.classes))
            values += np.abs(ours - getattr(maps, kind)).max(axis=(1, 2)).tolist()
    cam, attn = differences.values()
    return {
        "max_cam": max(cam, default=0.0),
        "max_attn": max(attn, default=0.0),
        "equal_maps": float(np.mean(np.array(cam + attn) < TOLERANCE)),
    }


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
