"""From images and labels to mask PNGs: our commands against the reference's way, each in fresh processes.

python -m benchmarks.end_to_end [--quick] [--json FILE] [--threads 2] [--device auto]

Every contestant runs as a user would run it, once for one image and once for the list; images a second are what the
further images take, so that loading Python and the model does not count (the list's whole time has a column too);
with --quick there is no run on one image, and loading counts; nor are there the rows with all cores and in half
precision.
Memory is the most that any one process held. Both use the reference's CRF image, so that the masks can be compared.
The reference's way is the plain transcription, its files, and pydensecrf: one image at a time, and with a process a
core for the CRF.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.material import MODELS, Photos, copies, model_file, photos
from benchmarks.measure import Command, run_fresh
from clip.device import pick_device
from common.arguments import positive
from common.errors import EXIT_OK, UserError
from common.files import write_text
from dataset.mask_png import read_mask

PLAIN, PLAIN_POOL = "plain", "plain, CRF on all cores"
HALF = "scripts.run --precision bfloat16"
COLUMNS: measure.Columns = {
    "way": ("way", "{}"),
    "images": ("images", "{}"),
    "images_per_s": ("images/s", "{:.3g}"),
    "ratio": ("against plain", "{:.2f}"),
    "ratio_pool": ("CRF on all cores", "{:.2f}"),
    "list_s": ("list, s", "{:.1f}"),
    "one_image_s": ("one image, s", "{:.1f}"),
    "peak_mb": ("peak MB", "{:.0f}"),
    "same_pixels": ("same mask pixels", "{:.4%}"),
}


@dataclass(frozen=True)
class Way:
    """A contestant. `commands` gives the steps for (photos, output folder); each runs in a process of its own."""

    name: str
    photos: Photos
    commands: Callable[[Photos, Path], list[Command]]

    def run(self, photos: Photos, out: Path) -> tuple[float, float]:
        """Seconds from the first process's start to the last one's end, and the largest peak in MB."""
        results = [run_fresh(command) for command in self.commands(photos, out)]
        return sum(seconds for _, seconds in results), max(usage.peak_mb for usages, _ in results for usage in usages)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Images and labels to masks: our commands against the reference's way.", True)
    parser.add_argument("--model", choices=MODELS, help="not given: a random ViT-B/16, with --quick the toy world's")
    parser.add_argument("--photos", type=positive, help="not given: 12, with --quick 3")
    parser.add_argument("--repeat", type=positive, help="our list is the photos so often; not given: 1, on a GPU 250")
    parser.add_argument("--turns", type=positive, help="not given: 3, with --quick 1")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    if find_spec("pydensecrf") is None:
        raise UserError("pydensecrf2 is not installed, and it is part of the reference's way: pip install pydensecrf2")
    device = pick_device(args.device)
    turns, model = args.turns or (1 if args.quick else 3), args.model or ("toy" if args.quick else "ViT-B/16")
    repeat = args.repeat or (1 if args.quick or device.type == "cpu" else 250)
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder, machine = Path(name), measure.machine(device)
        few = photos(args.photos or (3 if args.quick else 12), folder)
        what = f"Images to masks: {few.source}, {model}, medians of {turns} turns"
        print(measure.headline(what, args.threads, machine))
        many = few if repeat == 1 else copies(few, folder / "many", repeat * len(few.ids))
        clip = ["--model", str(model_file(model, folder)), "--device", str(device)]
        crf = ["--crf_image", "reference", "--num_workers", str(args.threads)]
        ways = [
            Way(PLAIN, few, partial(plain_commands, clip, 1)),
            Way("generate_cams.py, eval_cam_with_crf.py", many, partial(staged_commands, clip, crf)),
            Way("scripts.run", many, partial(one_command, clip, crf)),
        ]
        if not args.quick:
            ways.append(Way(PLAIN_POOL, few, partial(plain_commands, clip, args.threads)))
            ways.append(Way(HALF, many, partial(one_command, [*clip, "--precision", "bfloat16"], crf)))
        rows = race(ways, folder, turns, loading_counts=args.quick)
    print(measure.table(rows, COLUMNS))
    settings = {"photos": few.source, "model": model, "turns": turns, "threads": args.threads}
    measure.write_record(args.json, "end_to_end", machine, settings, rows)
    return EXIT_OK


def plain_commands(model: list[str], crf_workers: int, photos: Photos, out: Path) -> list[Command]:
    data = ["--img_root", str(photos.root / "JPEGImages"), "--split_file", str(photos.split), "--out", str(out)]
    return [("benchmarks.plain_road", [*data, *model, "--crf_workers", str(crf_workers)])]


def staged_commands(model: list[str], crf: list[str], photos: Photos, out: Path) -> list[Command]:
    cams = ["--cam_out_dir", str(out / "cams")]
    masks = ["--pseudo_mask_save_path", str(out / "masks")]
    return [
        ("generate_cams", [*photos.options(), *cams, *model]),
        ("eval_cam_with_crf", [*photos.options(), *cams, *masks, *crf]),
    ]


def one_command(model: list[str], crf: list[str], photos: Photos, out: Path) -> list[Command]:
    return [("scripts.run", [*photos.options(), "--pseudo_mask_save_path", str(out / "masks"), *model, *crf])]


def race(ways: Sequence[Way], folder: Path, turns: int, loading_counts: bool) -> list[dict[str, Any]]:
    """A row for each way. The runs on one image warm up what is kept on disk (compiled kernels, text embeddings)."""
    first, whole = ({way.name: list[tuple[float, float]]() for way in ways} for _ in range(2))
    split = folder / "first.txt"
    for turn in range(turns):
        for way in ways[:: -1 if turn % 2 else 1]:
            if not loading_counts:
                write_text(split, f"{way.photos.ids[0]}\n")
                one = replace(way.photos, split=split)
                first[way.name].append(way.run(one, folder / f"{way.name}, one, {turn}"))
            whole[way.name].append(way.run(way.photos, folder / f"{way.name}, list, {turn}"))
    rows = [row(way, first[way.name], whole[way.name]) for way in ways]
    rates = {row["way"]: row["images_per_s"] for row in rows}
    for way, result in zip(ways, rows):
        for key, plain in (("ratio", PLAIN), ("ratio_pool", PLAIN_POOL)):
            ours, theirs = result["images_per_s"], rates.get(plain)
            result[key] = ours / theirs if ours and theirs else None
        result["same_pixels"] = same_pixels(way, ways[0], folder)
    return rows


def row(way: Way, first: list[tuple[float, float]], whole: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians; no rate where the list took no longer than one image did, which says nothing."""
    images, list_s = len(way.photos.ids), median(seconds for seconds, _ in whole)
    one_s = median(seconds for seconds, _ in first) if first else None
    further, further_s = (images, list_s) if one_s is None else (images - 1, list_s - one_s)
    return {
        "way": way.name,
        "images": images,
        "images_per_s": further / further_s if further and further_s > 0 else None,
        "list_s": list_s,
        "one_image_s": one_s,
        "peak_mb": max(peak for _, peak in whole),
    }


def same_pixels(way: Way, plain: Way, folder: Path) -> float:
    """Share of the pixels of the plain way's photos whose value in the mask is the same."""
    same = total = 0
    for our_id, their_id in zip(way.photos.ids, plain.photos.ids):
        ours = read_mask(folder / f"{way.name}, list, 0" / "masks" / f"{our_id}.png")
        theirs = read_mask(folder / f"{plain.name}, list, 0" / "masks" / f"{their_id}.png")
        same, total = same + int(np.count_nonzero(ours == theirs)), total + ours.size
    return same / total


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
