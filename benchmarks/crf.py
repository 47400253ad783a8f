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
OURS = tuple(name for name in BACKENDS if name != THEIRS)

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
    parser.add_argument("--backends", nargs="+", choices=OURS, help="ours; not given: numba, and torch on a GPU")
    parser.add_argument("--labels", type=positive, nargs="+", default=LABELS, help="label counts (background included)")
    parser.add_argument("--photos", type=positive, help="not given: 8, with --quick 2")
    parser.add_argument("--turns", type=positive, help="not given: 5, with --quick 3")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    if find_spec("pydensecrf") is None:
        raise UserError("pydensecrf2 is not installed, and it is what ours is compared with: pip install pydensecrf2")
    device = pick_device(args.device)
    backends = args.backends or (["numba"] if device.type == "cpu" else list(OURS))
    turns = args.turns or (3 if args.quick else 5)
    with measure.cores(args.threads):
        machine, (images, source) = measure.machine(device), crf_images(args.photos or (2 if args.quick else 8))
        what = f"DenseCRF: {source}, medians of {turns} turns, 1 thread an image"
        print(measure.headline(what, args.threads, machine))
        rows = []
        for labels in args.labels:
            rows += single_rows(images, labels, backends, turns, str(device))
        print(measure.table(rows, COLUMNS), flush=True)
        at_once = side_by_side_rows(images, backends, args.threads, turns)
        if "torch" in backends:
            many = images * (1 if device.type == "cpu" else 8)
            theirs_ms = {row["K"]: row["theirs_ms"] for row in rows}
            at_once += [batch_row(many, labels, theirs_ms[labels], turns, str(device)) for labels in args.labels]
    print(f"\n{measure.table(at_once, AT_ONCE)}")
    settings = {"images": source, "turns": turns, "threads": args.threads}
    measure.write_record(args.json, "crf", machine, settings, [*rows, *at_once])
    return EXIT_OK


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


def single_rows(
    images: list[np.ndarray], labels: int, backends: Sequence[str], turns: int, device: str
) -> list[dict[str, Any]]:
    """A row for each of our backends: of the times medians over the images, of the agreement the worst."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in backends}
    for image in images:
        probs = cam_probs(labels, image.shape[:2])
        work = {name: partial(dense_crf, image, probs, backend=name, device=device) for name in (*backends, THEIRS)}
        q = {name: run() for name, run in work.items()}  # also compiles
        seconds = measure.take_turns({name: measure.timed(run) for name, run in work.items()}, turns)
        for name in backends:
            times = {"ours": seconds[name], "theirs": seconds[THEIRS]}
            results[name].append(times | agreement(q[name], q[THEIRS]))
    return [summary(name, labels, results[name]) for name in backends]


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
    """The row of what was measured on each image."""
    ours, theirs, same, masks, max_dq = (
        [result[key] for result in results] for key in ("ours", "theirs", "labels", "masks", "max_dq")
    )
    ratios = [their / our for our, their in zip(ours, theirs)]
    return {
        "backend": backend,
        "K": labels,
        "ours_ms": 1e3 * median(ours),
        "theirs_ms": 1e3 * median(theirs),
        "ratio_median": median(ratios),
        "ratio_min": min(ratios),
        "labels_agreement": min(same),
        "masks_agreement": min(masks),
        "max_dq": max(max_dq),
    }


def side_by_side_rows(
    images: list[np.ndarray], backends: Sequence[str], most: int, turns: int, labels: int = 3
) -> list[dict[str, Any]]:
    """Images a second of every number of workers up to `most`, by doubling, over the images twice."""
    work = [(image, cam_probs(labels, image.shape[:2])) for image in [*images, *images]]
    workers = sorted({most, *(2**power for power in range(most.bit_length()))})

    def run(backend: str, threads: int) -> None:
        list(ordered_map(lambda pair: dense_crf(*pair, backend=backend).shape, work, threads))

    contestants = {
        (backend, threads): measure.timed(partial(run, backend, threads))
        for backend in (*(name for name in backends if name != "torch"), THEIRS)
        for threads in workers
    }
    seconds = measure.take_turns(contestants, turns)
    alone = seconds[THEIRS, 1]
    return [
        at_once_row(backend, threads, labels, len(work) / value, alone / value)
        for (backend, threads), value in seconds.items()
    ]


def batch_row(images: list[np.ndarray], labels: int, theirs_ms: float, turns: int, device: str) -> dict[str, Any]:
    """The backend torch with all images in one call, beside pydensecrf2's milliseconds an image."""
    probs = [cam_probs(labels, image.shape[:2]) for image in images]
    run = partial(dense_crf_batch, images, probs, device=device)
    run()  # warms up
    rate = len(images) / measure.take_turns({"torch": measure.timed(run)}, turns)["torch"]
    return at_once_row("torch", len(images), labels, rate, rate * theirs_ms / 1e3)


def at_once_row(backend: str, at_once: int, labels: int, rate: float, ratio: float) -> dict[str, Any]:
    return {"backend": backend, "at_once": at_once, "K": labels, "images_per_s": rate, "against_one_core": ratio}


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
