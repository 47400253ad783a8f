"""Scores for every background setting: our one pass over small files against the reference's pass a setting.

python -m benchmarks.evaluation [--quick] [--json FILE] [--threads 2]

The reference's way is a plain loop here: for each exponent and each image, read the full-size maps and the ground
truth, raise the background to the power, stack, argmax, count. It runs on one thread, in float16 as its files are.
numpy is slow in float16, so the same loop in float32 has a column too. Ours computes in float32. Both score the same
smooth random maps.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from benchmarks import measure
from benchmarks.material import Photos, photos, smooth
from clip.image import patch_grid
from common.arguments import positive
from common.errors import EXIT_OK, UserError
from common.images import image_size
from pipeline.files.cam_file import save_cams
from pipeline.stages import evaluate as stage_eval
from pipeline.steps.maps import Cams, resize_maps
from pipeline.steps.scores import backgrounds_for, scores_of

LABELS = 21
COLUMNS: measure.Columns = {
    "maps": ("maps", "{}"),
    "settings": ("exponents", "{}"),
    "threads": ("threads", "{}"),
    "ours_ms": ("ms an image", "{:.1f}"),
    "plain_ms": ("reference's way, ms", "{:.1f}"),
    "ratio": ("ratio", "{:.1f}"),
    "float32_ms": ("in float32, ms", "{:.1f}"),
    "ratio_float32": ("ratio", "{:.1f}"),
    "max_miou_difference": ("max diff. mIoU", "{:.1e}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Scoring CAM files for all background settings, against a pass for every setting.")
    parser.add_argument("--photos", type=positive, help="not given: 40, with --quick 8")
    parser.add_argument("--turns", type=positive, help="not given: 5, with --quick 3")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    turns = args.turns or (3 if args.quick else 5)
    with measure.cores(args.threads), TemporaryDirectory() as name:
        machine, chosen = measure.machine(), photos(args.photos or (8 if args.quick else 40), Path(name))
        write_maps(chosen, Path(name) / "ours", Path(name) / "plain")
        print(measure.headline(f"Evaluation: {chosen.source}, medians of {turns} turns", args.threads, machine))
        threads = sorted({1, args.threads})
        rows = [row for maps in ("highres", "attn_highres") for row in race(chosen, Path(name), maps, threads, turns)]
    print(measure.table(rows, COLUMNS))
    settings = {"photos": chosen.source, "turns": turns, "threads": args.threads}
    measure.write_record(args.json, "evaluation", machine, settings, rows)
    return EXIT_OK


def write_maps(photos: Photos, ours: Path, plain: Path) -> None:
    """Smooth random maps in both forms: ours on the patch grid, compressed; theirs in full size, float16, plain."""
    plain.mkdir(parents=True)
    for sample in photos.samples():
        size, random = image_size(sample.image), np.random.default_rng(crc32(sample.id.encode()))
        grid = patch_grid(size, 16)
        cam, attn = (np.stack([smooth(random, grid, cells) for _ in sample.labels]) for cells in (12, 6))
        cams = Cams(np.array(sample.labels, np.int64), cam, attn, size)
        save_cams(ours / f"{sample.id}.npz", cams, {})
        for kind, maps in (("highres", cam), ("attn_highres", attn)):
            full = resize_maps(maps, size).astype(np.float16)
            np.savez(plain / f"{sample.id}_{kind}.npz", keys=cams.keys, maps=full)


def race(photos: Photos, folder: Path, maps: str, threads: Sequence[int], turns: int) -> list[dict[str, Any]]:
    """The rows of one kind of maps."""
    ids = photos.ids
    work = {f"{count} threads": partial(ours, photos, folder / "ours", maps, ids, count) for count in threads}
    for precision in ("float16", "float32"):
        work[precision] = partial(plain, photos, folder / "plain", maps, ids, precision)
    difference = miou_difference(work["1 threads"](), work["float32"]())  # warms up too
    seconds = measure.take_turns({name: measure.timed(run) for name, run in work.items()}, turns)
    milliseconds = {name: 1e3 * value / len(ids) for name, value in seconds.items()}
    return [
        {
            "maps": maps,
            "settings": len(backgrounds_for(maps, 1)),
            "threads": count,
            "ours_ms": milliseconds[f"{count} threads"],
            "plain_ms": milliseconds["float16"],
            "ratio": milliseconds["float16"] / milliseconds[f"{count} threads"],
            "float32_ms": milliseconds["float32"],
            "ratio_float32": milliseconds["float32"] / milliseconds[f"{count} threads"],
            "max_miou_difference": difference,
        }
        for count in threads
    ]


def ours(photos: Photos, folder: Path, maps: str, ids: list[str], threads: int) -> np.ndarray:
    """Confusion matrices (S, 21, 22) by our stage."""
    job = stage_eval.EvalJob(folder, photos.masks, maps, LABELS, backgrounds_for(maps, 1))
    totals = job.empty_totals()
    for outcome in stage_eval.run(job, ids, totals, threads):
        if outcome.status == "failed":
            raise UserError(outcome.reason)
    return totals.confusions


def plain(photos: Photos, folder: Path, maps: str, ids: list[str], precision: str) -> np.ndarray:
    """Confusion matrices (S, 21, 21) by a pass over all files for every exponent, as the reference has it."""
    exponents = (1, 2) if maps == "attn_highres" else range(1, 11)
    totals = np.zeros((len(exponents), LABELS, LABELS), np.int64)
    for total, exponent in zip(totals, exponents):
        for image_id in ids:
            predicted = plain_labels(folder / f"{image_id}_{maps}.npz", exponent, precision)
            total += plain_confusion(photos.masks / f"{image_id}.png", predicted)
    return totals


def plain_labels(path: Path, exponent: float, precision: str) -> np.ndarray:
    """(H, W) labels of one file."""
    with np.load(path) as file:
        cams, keys = file["maps"].astype(precision), np.pad(file["keys"] + 1, (1, 0))
    background = np.power(1 - cams.max(axis=0, keepdims=True), exponent)
    return keys[np.concatenate([background, cams]).argmax(axis=0)]


def plain_confusion(truth_file: Path, predicted: np.ndarray) -> np.ndarray:
    """(21, 21) pixel counts, true labels in rows."""
    truth = np.asarray(Image.open(truth_file)).astype(np.int64)
    scored = truth < LABELS
    return np.bincount(truth[scored] * LABELS + predicted[scored], minlength=LABELS**2).reshape(LABELS, LABELS)


def miou_difference(ours: np.ndarray, plain: np.ndarray) -> float:
    """The largest over the settings; the maps differ by where they were rounded to float16."""
    padded = np.pad(plain, ((0, 0), (0, 0), (0, 1)))
    return max(abs(scores_of(a).miou - scores_of(b).miou) for a, b in zip(ours, padded))


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
