"""Our DenseCRF against Kraehenbuehl's library (pydensecrf2): time per image on one thread, and agreement.

    python -m benchmarks.crf [--quick] [--json FILE]

Both run in one process, taking turns. Photos of ../shared/voc_mini where that exists, else generated images of the same
size; the CAMs are smooth random maps. What is left out of our time: compilation, and the filter that depends on the
size of the image only and is kept between images of a size.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import cv2
import numpy as np

from pipeline.crf import dense_crf, reference_image

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "voc_mini" / "JPEGImages"
LABELS = (2, 3, 4, 6)
CONFIDENCE = 0.95


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 images, 3 turns, instead of 8 and 5")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(argv)
    count, turns = (2, 3) if args.quick else (8, 5)
    cv2.setNumThreads(1)
    images, source = load_images(count)
    print(f"{len(images)} {source}, {turns} turns each, 1 thread, {platform.processor() or platform.machine()}")
    print(" K   ours ms  theirs ms  ratio median (min)   labels %     masks %      max |dQ|")
    rows = []
    for labels in LABELS:
        rows.append(summary(labels, [compare(image, labels, turns) for image in images]))
        print(line(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(
            json.dumps({"images": source, "turns": turns, "threads": 1, "rows": rows}, indent=2) + "\n"
        )
    return 0


def load_images(count: int) -> tuple[list[np.ndarray], str]:
    """Images (H, W, 3) uint8 as the CRF of the reference sees them, and what they are."""
    paths = sorted(PHOTOS.glob("*.jpg"))
    if not paths:
        return [generated_image(seed) for seed in range(count)], "generated images"
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return [reference_image(np.asarray(cv2.imread(str(path)))[..., ::-1]) for path in chosen], "photos of voc_mini"


def generated_image(seed: int) -> np.ndarray:
    """Smooth patches and some grain, (375, 500, 3) uint8."""
    random = np.random.default_rng(seed)
    patches = cv2.resize(random.integers(0, 256, (24, 32, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC)
    return (patches + random.normal(0, 3, patches.shape)).clip(0, 255).astype(np.uint8)


def cam_probs(labels: int, height: int, width: int) -> np.ndarray:
    """Smooth random maps as probabilities (K, H, W) float32, background first."""
    coarse = np.random.default_rng(labels).random((labels - 1, height // 16, width // 16), np.float32) ** 2
    blurred = [cv2.GaussianBlur(cam, (0, 0), 1.5) for cam in coarse]
    cams = np.stack([cv2.resize(cam / cam.max(), (width, height), interpolation=cv2.INTER_LINEAR) for cam in blurred])
    return np.concatenate([1 - cams.max(axis=0, keepdims=True), cams])


def compare(image: np.ndarray, labels: int, turns: int) -> dict[str, float]:
    """Median seconds of both on one image, and how far they agree."""
    probs = cam_probs(labels, *image.shape[:2])
    q = {backend: dense_crf(image, probs, backend=backend) for backend in ("numba", "pydensecrf")}
    seconds: dict[str, list[float]] = {backend: [] for backend in q}
    for turn in range(turns):
        for backend in sorted(q, reverse=turn % 2 == 1):
            start = time.perf_counter()
            dense_crf(image, probs, backend=backend)
            seconds[backend].append(time.perf_counter() - start)
    ours, theirs = q["numba"], q["pydensecrf"]
    return {
        "ours": float(np.median(seconds["numba"])),
        "theirs": float(np.median(seconds["pydensecrf"])),
        "labels": float((ours.argmax(axis=0) == theirs.argmax(axis=0)).mean()),
        "masks": float((mask(ours) == mask(theirs)).mean()),
        "max_dq": float(np.abs(ours - theirs).max()),
    }


def mask(q: np.ndarray) -> np.ndarray:
    """What would be written: the label, 255 where it is not confident (clip_es section 6)."""
    return np.where(q.max(axis=0) < CONFIDENCE, 255, q.argmax(axis=0))


def summary(labels: int, results: list[dict[str, float]]) -> dict[str, float]:
    """One row of the table: medians over the images of the times, the worst agreement."""
    ratios = [result["theirs"] / result["ours"] for result in results]
    return {
        "K": labels,
        "ours_ms": 1e3 * float(np.median([result["ours"] for result in results])),
        "theirs_ms": 1e3 * float(np.median([result["theirs"] for result in results])),
        "ratio_median": float(np.median(ratios)),
        "ratio_min": min(ratios),
        "labels_agreement": min(result["labels"] for result in results),
        "masks_agreement": min(result["masks"] for result in results),
        "max_dq": max(result["max_dq"] for result in results),
    }


def line(row: dict[str, float]) -> str:
    return (
        f"{row['K']:2.0f} {row['ours_ms']:9.1f} {row['theirs_ms']:10.1f} "
        f"{row['ratio_median']:9.2f}  ({row['ratio_min']:.2f}) "
        f"{100 * row['labels_agreement']:14.4f} {100 * row['masks_agreement']:11.4f} {row['max_dq']:13.1e}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
