"""Our DenseCRF against Kraehenbuehl's library (pydensecrf2): time per image on one thread, agreement, side by side.

python -m benchmarks.crf [--quick] [--json FILE] [--threads 2] [--backends numba torch] [--device auto]

All run in one process, taking turns, on photos of VOC (generated images where there are none) and smooth random maps.
Left out of our time: compilation, and the filter that depends on the size of the image only and is kept between images
of a size. The second table is several images at once, as with --num_workers of eval_cam_with_crf.py, and, of the
backend torch, all images as one batch (on a GPU eight times over), which goes there and comes back.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.material import photos, smooth
from clip.device import pick_device
from common.arguments import positive
from common.errors import EXIT_OK, UserError
from common.images import read_image
from common.parallel import ordered_map
from pipeline.crf.dense_crf import BACKENDS, dense_crf, dense_crf_batch, reference_image
from pipeline.steps.masks import confident, with_background

LABELS = (2, 3, 4, 6)
CONFIDENCE = 0.95
THEIRS = "pydensecrf"

COLUMNS: measure.Columns = {
    "backend": ("backend", "{}"),
    "K": ("labels", "{}"),
    "ours_ms": ("ms", "{:.1f}"),
    "theirs_ms": ("pydensecrf2 ms", "{:.1f}"),
    "ratio_median": ("ratio, median", "{:.2f}"),
    "ratio_min": ("slowest image", "{:.2f}"),
    "labels_agreement": ("same labels", "{:.4%}"),
    "masks_agreement": ("same masks", "{:.4%}"),
    "max_dq": ("max diff. Q", "{:.1e}"),
}
AT_ONCE: measure.Columns = {
    "backend": ("backend", "{}"),
    "at_once": ("images at once", "{}"),
    "K": ("labels", "{}"),
    "images_per_s": ("images/s", "{:.2f}"),
    "against_one_core": ("against pydensecrf2 on one core", "{:.2f}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Our DenseCRF against pydensecrf2, on one thread and several images at once.", True)
    parser.add_argument("--backends", nargs="+", metavar="NAME", help="ours; not given: numba, and torch on a GPU")
    parser.add_argument("--labels", type=positive, nargs="+", help=f"label counts; not given: {LABELS}")
    parser.add_argument("--photos", type=positive, help="not given: 8, with --quick 2")
    parser.add_argument("--turns", type=positive, help="not given: 5, with --quick 3")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    device = pick_device(args.device)
    backends = chosen_backends(args.backends, device.type)
    turns = args.turns or (3 if args.quick else 5)
    with measure.cores(args.threads):
        found, (images, source) = measure.machine(device), crf_images(args.photos or (2 if args.quick else 8))
        print(measure.headline(f"DenseCRF: {source}, medians of {turns} turns, 1 thread an image", args.threads, found))
        rows = single_rows(images, backends, args.labels or LABELS, turns, str(device))
        print(measure.table(rows, COLUMNS), flush=True)
        at_once = side_by_side_rows(images, backends, args.threads, turns)
        if "torch" in backends:
            at_once += batch_rows(images * (1 if device.type == "cpu" else 8), rows, turns, str(device))
    print(f"\n{measure.table(at_once, AT_ONCE)}")
    settings = {"images": source, "turns": turns, "threads": args.threads}
    measure.write_record(args.json, "crf", found, settings, [*rows, *at_once])
    return EXIT_OK


def chosen_backends(asked: list[str] | None, device: str) -> list[str]:
    """Ours, and a check that pydensecrf2 is there, before anything is measured."""
    if find_spec("pydensecrf") is None:
        raise UserError("pydensecrf2 is not installed, and it is what ours is compared with: pip install pydensecrf2")
    ours = [name for name in BACKENDS if name != THEIRS]
    unknown = [name for name in asked or () if name not in ours]
    if unknown:
        raise UserError(f"--backends {unknown[0]}: expected one of {', '.join(ours)}")
    return asked or [name for name in ours if name == "numba" or device != "cpu"]


def crf_images(count: int) -> tuple[list[np.ndarray], str]:
    """Images (H, W, 3) uint8 as the CRF of the reference sees them, and what they are."""
    with TemporaryDirectory() as folder:
        chosen = photos(count, Path(folder))
        images = [reference_image(np.asarray(read_image(sample.image))) for sample in chosen.samples()]
    return images, chosen.source


def cam_probs(labels: int, size: tuple[int, int]) -> np.ndarray:
    """Smooth random maps as probabilities (K, H, W) float32, background first."""
    random = np.random.default_rng(labels)
    return with_background(np.stack([smooth(random, size, 24) for _ in range(labels - 1)]))


# --- one image on one thread ----------------------------------------------------------------------


def single_rows(
    images: list[np.ndarray], backends: list[str], labels: Sequence[int], turns: int, device: str
) -> list[dict[str, Any]]:
    rows = []
    for count in labels:
        results = [compare(image, count, backends, turns, device) for image in images]
        rows += [summary(backend, count, [result[backend] for result in results]) for backend in backends]
    return rows


def compare(
    image: np.ndarray, labels: int, backends: list[str], turns: int, device: str
) -> dict[str, dict[str, float]]:
    """Of each of our backends on one image: median seconds, theirs beside them, and how far they agree."""
    probs = cam_probs(labels, image.shape[:2])
    work = {name: partial(dense_crf, image, probs, backend=name, device=device) for name in (*backends, THEIRS)}
    q = {name: run() for name, run in work.items()}  # also compiles
    seconds = measure.take_turns({name: measure.timed(run) for name, run in work.items()}, turns)
    return {
        name: {"ours": seconds[name], "theirs": seconds[THEIRS], **agreement(q[name], q[THEIRS])} for name in backends
    }


def agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Shares of pixels with the same label and the same value in the mask, and the largest difference of Q."""
    return {
        "labels": float((ours.argmax(axis=0) == theirs.argmax(axis=0)).mean()),
        "masks": float((mask(ours) == mask(theirs)).mean()),
        "max_dq": float(abs(ours - theirs).max()),
    }


def mask(q: np.ndarray) -> np.ndarray:
    """What would be written: the label, 255 where it is not confident."""
    return confident(q.argmax(axis=0).astype("uint8"), q, CONFIDENCE)


def summary(backend: str, labels: int, results: list[dict[str, float]]) -> dict[str, Any]:
    """One row of the table: medians over the images of the times, the worst agreement."""
    ratios = [result["theirs"] / result["ours"] for result in results]
    return {
        "backend": backend,
        "K": labels,
        "ours_ms": 1e3 * median(result["ours"] for result in results),
        "theirs_ms": 1e3 * median(result["theirs"] for result in results),
        "ratio_median": median(ratios),
        "ratio_min": min(ratios),
        "labels_agreement": min(result["labels"] for result in results),
        "masks_agreement": min(result["masks"] for result in results),
        "max_dq": max(result["max_dq"] for result in results),
    }


# --- several images at once -----------------------------------------------------------------------


def side_by_side_rows(
    images: list[np.ndarray], backends: list[str], most: int, turns: int, labels: int = 3
) -> list[dict[str, Any]]:
    """Images a second of every number of workers up to `most`, by doubling, over the images twice."""
    work = [(image, cam_probs(labels, image.shape[:2])) for image in [*images, *images]]
    workers = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})

    def run(backend: str, threads: int) -> None:
        list(ordered_map(lambda pair: dense_crf(*pair, backend=backend).shape, work, threads))

    contestants = {
        (backend, threads): measure.timed(partial(run, backend, threads))
        for backend in (*(name for name in backends if name != "torch"), THEIRS)
        for threads in workers
    }
    seconds = measure.take_turns(contestants, turns)
    return [
        {
            "backend": backend,
            "at_once": threads,
            "K": labels,
            "images_per_s": len(work) / value,
            "against_one_core": seconds[THEIRS, 1] / value,
        }
        for (backend, threads), value in seconds.items()
    ]


def batch_rows(
    images: list[np.ndarray], single: Sequence[measure.Row], turns: int, device: str
) -> list[dict[str, Any]]:
    """Images a second of the backend torch with all of them in one call, beside the median image of `single_rows`."""
    theirs_ms = {row["K"]: row["theirs_ms"] for row in single}
    work = {}
    for count in theirs_ms:
        probs = [cam_probs(count, image.shape[:2]) for image in images]
        work[count] = partial(dense_crf_batch, images, probs, device=device)
        work[count]()  # warms up
    seconds = measure.take_turns({count: measure.timed(run) for count, run in work.items()}, turns)
    rates = {count: len(images) / value for count, value in seconds.items()}
    return [
        {
            "backend": "torch",
            "at_once": len(images),
            "K": count,
            "images_per_s": rate,
            "against_one_core": rate * theirs_ms[count] / 1e3,
        }
        for count, rate in rates.items()
    ]


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
