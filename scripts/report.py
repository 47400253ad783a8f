"""The results of the stages as one HTML page: scores, confusion, coverage against precision, and a gallery.

python -m scripts.report                                   # the toy world -> output/toyworld/report.html
python -m scripts.report --dataset voc12 --img_root VOC2012 --masks MASKS --cam_out_dir CAMS --out report.html
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import console
from cli.options import Parser, add_cam_dir, add_data_options, output_dir
from common.arguments import positive

if TYPE_CHECKING:
    from cli.lookup import Selection
    from report.measure import ReportJob

GALLERY = 12_000  # images with pictures; keeps the page below about 60 MB


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Masks, CAM files and images -> one self-contained HTML page with scores and a gallery.",
        "Ground truth is needed for scores only; without it the gallery is sorted by confidence alone. "
        "Images can be marked in the page; it writes the marked ids, or the others, as a split file.",
    )
    add_data_options(parser, truth=True)
    add_cam_dir(parser, "where the CAM files are")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="the masks; not given: output/DATASET/masks")
    parser.add_argument("--out", type=Path, metavar="HTML", help="the page; not given: output/DATASET/report.html")
    parser.add_argument("--cam_type", choices=("attn_highres", "highres"), default="attn_highres", help="CAMs to show")
    parser.add_argument(
        "--gallery", type=positive, default=GALLERY, metavar="N", help="show pictures of the N least certain images"
    )
    parser.add_argument(
        "--curve",
        type=positive,
        metavar="N",
        help="run the CRF again on N images: precision and coverage for every confidence threshold",
    )
    parser.add_argument(
        "--vote_dir", type=Path, metavar="DIR", help="with --curve: the masks that voted on these masks"
    )
    parser.add_argument("--num_workers", type=positive, default=2, help="images that are worked on side by side")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from cli.lookup import select_from
    from common.files import check_place, nearest_folder
    from report.curve import Curve, crf_job, run, sample
    from report.gallery import Spool, draw
    from report.measure import Findings, least_certain, measure
    from report.page import Report, write_report

    selection = select_from(args, images_needed=True)
    selection.print_labels()
    job, ids = _job(args, selection), selection.ids
    record = _first_record(job, ids)
    crf = crf_job(job, record, args.vote_dir) if args.curve else None  # refuses before the work begins
    out = args.out or output_dir(args.dataset, "report.html")
    check_place(out, "--out", "report.html")
    findings, tally = Findings.empty(job.spec.num_labels), console.Tally(failures=list(selection.problems))
    _count(measure(job, ids, findings, args.num_workers), len(ids), "masks", tally)
    shown = least_certain(findings.entries, args.gallery)
    with tempfile.TemporaryFile(dir=nearest_folder(out.parent)) as stream:
        spool = Spool(stream)
        _count(draw(job, shown, spool, args.num_workers), len(shown), "pictures", tally)
        curve = None
        if crf is not None:
            curve = Curve(crf.confidence)
            sampled = sample([entry.id for entry in findings.entries if entry.iou is not None], args.curve)
            _count(run(job, crf, sampled, curve, args.num_workers), len(sampled), "curve", tally)
        failures = _by_image(tally.failures)
        write_report(out, Report(job.spec, _sources(job, selection, record), findings, spool, failures, curve))
    print(f"{len(findings.entries)} images ({findings.scored} scored) in {out}, {out.stat().st_size / 1e6:.1f} MB")
    return console.list_failures(failures)


def _job(args: argparse.Namespace, selection: "Selection") -> "ReportJob":
    from dataclasses import replace

    from cli.datasets import FOLDER
    from common.files import need_any, need_dir
    from pipeline.files.cam_file import check_classes
    from pipeline.stages.evaluate import cam_record, check_one_way
    from report.measure import ReportJob

    masks = need_dir(args.masks or output_dir(args.dataset, "masks"), "--masks", "the output of eval_cam_with_crf.py")
    cams = args.cam_out_dir or output_dir(args.dataset, "cams")
    need_dir(cams, "--cam_out_dir", "the output of generate_cams.py")
    files = (cams / f"{image_id}.npz" for image_id in selection.ids)
    need_any(cams, files, "--cam_out_dir", "the output of generate_cams.py")
    spec = selection.spec
    check_one_way(cams, selection.ids)
    check_classes(cams, cam_record(cams, selection.ids), spec)
    if spec.name == FOLDER:  # on the page a user's own data set has the name of its folder
        spec = replace(spec, name=selection.paths.images.resolve().name)
    # A split such as train_aug holds ids without official masks; only a --gt_root of the user's own must have all.
    needed = args.gt_root is not None or selection.spec.make_images is not None
    truth = selection.need_masks() if needed else selection.paths.masks
    if needed and truth is not None:
        selection.check_masks(truth, "--gt_root")
    return ReportJob(
        masks=masks,
        images=selection.paths.images,
        cams=cams,
        truth=truth,
        truth_needed=needed,
        spec=spec,
        cam_type=args.cam_type,
    )


def _first_record(job: "ReportJob", ids: list[str]) -> dict[str, Any]:
    """The record of the first mask of the split; raises UserError without any mask."""
    from common.files import is_file, need_any
    from report.curve import mask_record

    paths = [job.masks / f"{image_id}.png" for image_id in ids]
    need_any(job.masks, paths, "--masks", "the output of eval_cam_with_crf.py")
    return mask_record(next(filter(is_file, paths)))


def _count(outcomes: Iterator[console.Outcome], total: int, title: str, tally: console.Tally) -> None:
    for outcome in console.progress(outcomes, total, title):
        tally.add(outcome)


def _by_image(failures: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(id, reasons) of each image, every reason once."""
    reasons: dict[str, list[str]] = {}
    for image_id, reason in dict.fromkeys(failures):
        reasons.setdefault(image_id, []).append(reason)
    return [(image_id, "; ".join(listed)) for image_id, listed in reasons.items()]


def _sources(job: "ReportJob", selection: "Selection", record: dict[str, Any]) -> list[str]:
    confidence = f", 255 below a probability of {record['confidence']}" if "confidence" in record else ""
    paths, truth = selection.paths, f"; ground truth {job.truth}" if job.truth else ""
    images = f"all images in {paths.images}" if paths.split == paths.images else f"split {paths.split}"
    return [f"masks {job.masks}{confidence}", f"{images}{truth}"]


if __name__ == "__main__":
    sys.exit(main())
