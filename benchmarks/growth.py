"""How time and memory grow: with the number of images, and with the classes an image shows.

python -m benchmarks.growth [--quick] [--json FILE] [--threads 2]

First table: the three stages in one fresh process a size, on many copies of a hundred small generated images, with the
toy world's CLIP; the time of a run on one image (loading) is taken off. Peak memory is that of the process so far, so
it can only rise from stage to stage. Second table: images of VOC's size with 1 to 8 classes, loading not counted.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from benchmarks.fresh import Command, Ran, run_fresh
from cli import console
from common.arguments import positive
from common.errors import EXIT_OK, UserError

if TYPE_CHECKING:
    from benchmarks.material import Photos
    from pipeline.stages.cams import CamJob

STAGES = ("generate_cams", "eval_cam", "eval_cam_with_crf")
SIZE, DIFFERENT = (96, 128), 100  # of the copied images, in pixels, and how many there are
VOC_SIZE, MOST_CLASSES = (375, 500), 8

COLUMNS: measure.Columns = {
    "images": ("images", "{:,}"),
    **{f"{stage}_ms": (f"{stage}.py, ms an image", "{:.1f}") for stage in STAGES},
    **{f"{stage}_mb": (f"peak MB after {stage}.py", "{:.0f}") for stage in STAGES},
}
CLASS_COLUMNS: measure.Columns = {
    "classes": ("classes an image", "{}"),
    "cam_ms": ("CAM, ms an image", "{:.0f}"),
    "crf_ms": ("CRF, ms an image", "{:.0f}"),
    "cam_bytes": ("CAM file, bytes", "{:,.0f}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Time and memory over the number of images, and time over the classes an image.")
    parser.add_argument(
        "--images", type=positive, nargs="+", help="list lengths; not given: 100 1000 10000, with --quick 20 40 80"
    )
    parser.add_argument("--classes", type=positive, nargs="+", help="not given: 1 to 8, with --quick 1 2 8")
    parser.add_argument("--turns", type=positive, help="of the second table; not given: 3, with --quick 1")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    measure.begin(args)
    lengths = sorted(set(args.images or ((20, 40, 80) if args.quick else (100, 1000, 10000))))
    classes = args.classes or ((1, 2, 8) if args.quick else range(1, MOST_CLASSES + 1))
    turns = args.turns or (1 if args.quick else 3)
    with measure.cores(args.threads), TemporaryDirectory() as name:
        found = measure.machine()
        told = f"Growth: generated images of {SIZE[1]}x{SIZE[0]}, toy CLIP"
        print(measure.headline(told, args.threads, found))
        rows = image_rows(lengths, Path(name), args.threads)
        print(measure.table(rows, COLUMNS))
        per_1000 = slope(rows)
        print(f"\npeak memory, from {lengths[0]:,} to {lengths[-1]:,} images: {per_1000:+.1f} MB per 1,000 images\n")
        rows_of_classes = class_rows(list(classes), Path(name), args.threads, 1 if args.quick else 3, turns)
    print(measure.table(rows_of_classes, CLASS_COLUMNS))
    settings = {"image_size": SIZE, "threads": args.threads, "turns": turns, "mb_per_1000_images": per_1000}
    measure.write_record(args.json, "growth", found, settings, [*rows, *rows_of_classes])
    return EXIT_OK


# --- images ---------------------------------------------------------------------------------------


def image_rows(lengths: list[int], folder: Path, threads: int) -> list[dict[str, Any]]:
    from benchmarks.material import copies, generated, model_file

    few, weights = generated(min(DIFFERENT, lengths[-1]), folder / "few", [SIZE]), model_file("toy", folder)

    def run(count: int) -> list[Ran]:
        many = copies(few, folder / f"{count}", count)
        return run_fresh(*commands(many, weights, folder / f"{count}", threads))[0]

    loading = run(1)
    return [row(count, run(count), loading) for count in lengths]


def commands(photos: "Photos", weights: Path, out: Path, threads: int) -> list[Command]:
    """The three stages as a user would call them."""
    data = [*photos.options(), "--cam_out_dir", str(out / "cams")]
    workers = ["--num_workers", str(threads)]
    truth = ["--gt_root", str(photos.masks)]
    return [
        ("generate_cams", [*data, "--model", str(weights), "--device", "cpu"]),
        ("eval_cam", [*data, *truth, *workers]),
        ("eval_cam_with_crf", [*data, *workers, "--pseudo_mask_save_path", str(out / "masks")]),
    ]


def row(count: int, ran: list[Ran], loading: list[Ran]) -> dict[str, Any]:
    """Milliseconds of every image beyond the first, and peaks. One image says nothing of the time."""
    found: dict[str, Any] = {"images": count}
    for stage, one, first in zip(STAGES, ran, loading):
        found[f"{stage}_ms"] = 1e3 * (one.seconds - first.seconds) / (count - 1) if count > 1 else None
        found[f"{stage}_mb"] = one.peak_mb
    return found


def slope(rows: list[dict[str, Any]]) -> float:
    """Growth of the whole process's peak in MB per 1,000 images, from the shortest list to the longest."""
    first, last = rows[0], rows[-1]
    peaks = last[f"{STAGES[-1]}_mb"] - first[f"{STAGES[-1]}_mb"]
    return 1e3 * peaks / max(1, last["images"] - first["images"])


# --- classes an image -----------------------------------------------------------------------------


def class_rows(classes: list[int], folder: Path, threads: int, images: int, turns: int) -> list[dict[str, Any]]:
    from benchmarks.cam_race import cam_job
    from benchmarks.material import generated, model_file

    work: dict[tuple[str, int], Any] = {}
    jobs = {}
    for count in classes:
        photos = generated(images, folder / f"{count} classes", [VOC_SIZE], count)
        job = jobs[count] = cam_job(model_file("toy", folder), photos, photos.root / "cams")
        work["cam", count] = partial(make_cams, job, photos)
        work["crf", count] = partial(make_masks, job, photos, threads)
    for run in work.values():  # warms up, and the CRF needs the CAM files
        run()
    seconds = measure.take_turns({name: measure.timed(run) for name, run in work.items()}, turns)
    return [
        {
            "classes": count,
            "cam_ms": 1e3 * seconds["cam", count] / images,
            "crf_ms": 1e3 * seconds["crf", count] / images,
            "cam_bytes": sum(path.stat().st_size for path in job.out_dir.glob("*.npz")) / images,
        }
        for count, job in jobs.items()
    ]


def make_cams(job: "CamJob", photos: "Photos") -> None:
    from pipeline.stages import cams as stage_cams

    _need_all(stage_cams.run(job, photos.samples(), set()))


def make_masks(job: "CamJob", photos: "Photos", threads: int) -> None:
    from pipeline.stages import crf as stage_crf
    from voc12.spec import SPEC

    out, classes = photos.root / "masks", len(SPEC.classes)
    crf = stage_crf.CrfJob(job.out_dir, photos.root / "JPEGImages", out, None, classes, overwrite=True)
    _need_all(stage_crf.run(crf, photos.ids, crf.empty_totals(), threads))


def _need_all(outcomes: Any) -> None:
    for outcome in outcomes:
        if outcome.status != "made":
            raise UserError(f"{outcome.id}: {outcome.status} {outcome.reason}")


if __name__ == "__main__":
    sys.exit(main())
