"""How time and memory grow with the number of images.

python -m benchmarks.growth [--quick] [--json FILE] [--threads 2]

The three stages in one fresh process a size, on many copies of a hundred small generated images, with the toy world's
CLIP; the time of a run on one image (loading) is taken off. Peak memory is that of the process so far, so it can only
rise from stage to stage.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import measure
from benchmarks.material import Photos, copies, generated, model_file
from benchmarks.measure import Command, Usage, run_fresh
from common.arguments import positive
from common.errors import EXIT_OK

STAGES = ("generate_cams", "eval_cam", "eval_cam_with_crf")
SIZE, DIFFERENT = (96, 128), 100  # of the copied images, in pixels, and how many there are
COLUMNS: measure.Columns = {
    "images": ("images", "{:,}"),
    **{f"{stage}_ms": (f"{stage}.py, ms an image", "{:.1f}") for stage in STAGES},
    **{f"{stage}_mb": (f"peak MB after {stage}.py", "{:.0f}") for stage in STAGES},
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Time and memory over the number of images.")
    parser.add_argument(
        "--images", type=positive, nargs="+", help="list lengths; not given: 100 1000 10000, with --quick 20 40 80"
    )
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    lengths = sorted(set(args.images or ((20, 40, 80) if args.quick else (100, 1000, 10000))))
    with measure.cores(args.threads), TemporaryDirectory() as name:
        machine = measure.machine()
        print(measure.headline(f"Growth: generated images of {SIZE[1]}x{SIZE[0]}, toy CLIP", args.threads, machine))
        few = generated(min(DIFFERENT, lengths[-1]), Path(name) / "few", [SIZE])
        loading, *usages = (stages(few, count, Path(name) / f"{count}", args.threads) for count in (1, *lengths))
    rows = [row(count, usage, loading) for count, usage in zip(lengths, usages)]
    per_1000 = slope(rows)
    print(measure.table(rows, COLUMNS))
    print(f"\npeak memory, from {lengths[0]:,} to {lengths[-1]:,} images: {per_1000:+.1f} MB per 1,000 images")
    settings = {"image_size": SIZE, "threads": args.threads, "mb_per_1000_images": per_1000}
    measure.write_record(args.json, "growth", machine, settings, rows)
    return EXIT_OK


def stages(few: Photos, count: int, folder: Path, threads: int) -> list[Usage]:
    """The three stages as a user would call them, on `count` copies."""
    photos, weights = copies(few, folder, count), model_file("toy", folder)
    data = [*photos.options(), "--cam_out_dir", str(folder / "cams")]
    workers, masks = ["--num_workers", str(threads)], ["--pseudo_mask_save_path", str(folder / "masks")]
    commands: list[Command] = [
        ("generate_cams", [*data, "--model", str(weights), "--device", "cpu"]),
        ("eval_cam", [*data, "--gt_root", str(photos.masks), *workers]),
        ("eval_cam_with_crf", [*data, *workers, *masks]),
    ]
    return run_fresh(*commands)[0]


def row(count: int, usages: list[Usage], loading: list[Usage]) -> dict[str, Any]:
    """Milliseconds of every image beyond the first, and peaks. One image says nothing of the time."""
    result: dict[str, Any] = {"images": count}
    for stage, usage, first in zip(STAGES, usages, loading):
        result[f"{stage}_ms"] = 1e3 * (usage.seconds - first.seconds) / (count - 1) if count > 1 else None
        result[f"{stage}_mb"] = usage.peak_mb
    return result


def slope(rows: list[dict[str, Any]]) -> float:
    """Growth of the whole process's peak in MB per 1,000 images, from the shortest list to the longest."""
    first, last = rows[0], rows[-1]
    peaks = last[f"{STAGES[-1]}_mb"] - first[f"{STAGES[-1]}_mb"]
    return 1e3 * peaks / max(1, last["images"] - first["images"])


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
