"""Stage 3: CAM files + images -> DenseCRF -> confidence masking -> PNG masks, and scores where there is ground truth.

python eval_cam_with_crf.py                # the toy world: writes the masks and scores them
python eval_cam_with_crf.py --eval_only    # scores only, writes nothing
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import run_log
from cli.model_options import add_crf_options
from cli.options import (
    Parser,
    add_absent,
    add_cam_dir,
    add_data_options,
    add_json,
    add_log_options,
    add_own_data_options,
    output_dir,
    positive,
)
from engine import ray_options

if TYPE_CHECKING:
    from cli.lookup import Selection
    from common.outcome import Outcome
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.evaluate import Totals


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "CAM files + images -> DenseCRF -> PNG masks with 255 where confidence is low; scores before the 255s.",
        "Ground truth is needed for scores only, which are those of the labels before the 255s, as published.",
    )
    add_data_options(parser, truth=True)
    add_own_data_options(parser)
    add_cam_dir(parser, "where the CAM files are")
    parser.add_argument("--cam_type", choices=("attn_highres", "highres"), default="attn_highres", help="which maps")
    parser.add_argument(
        "--pseudo_mask_save_path", type=Path, metavar="DIR", help="where the masks go; not given: output/DATASET/masks"
    )
    parser.add_argument("--eval_only", action="store_true", help="score only, write no masks")
    add_crf_options(parser)
    parser.add_argument("--palette", action="store_true", help="write coloured masks of mode P, for people")
    parser.add_argument("--device", default="auto", help="of the CRF on a GPU: auto, cpu, cuda, cuda:1")
    parser.add_argument("--num_workers", type=positive, default=2, help="images that are worked on side by side")
    parser.add_argument("--overwrite", action="store_true", help="make masks again that are there already")
    add_absent(parser)
    add_json(parser)
    add_log_options(parser)
    ray_options.add_engine_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return ray_options.run("eval_cam_with_crf.py", "crf", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from common.files import check_place

    selection = select_from(args, images_needed=True)
    from pipeline.files.cam_file import check_classes
    from pipeline.stages.evaluate import cam_record

    job = _job(args, selection)
    made_by = cam_record(job.cams, selection.ids)
    check_classes(job.cams, made_by, selection.spec)
    check_place(args.json, "--json", "scores.json")
    if job.out_dir is not None:
        log.into(output(job, made_by, selection.ids))
    _announce(args, job, len(selection.ids))
    totals = job.empty_totals()
    log.failed(selection.problems)
    log.follow(_outcomes(args, job, selection.ids, totals), len(selection.ids), "CRF")
    if job.truth is not None:
        _print_scores(args, selection, job, totals, log)
    return log.report("masks", job.out_dir) if job.out_dir else log.report()


def _outcomes(args: argparse.Namespace, job: "CrfJob", ids: Sequence[str], totals: "Totals") -> "Iterator[Outcome]":
    if args.engine == "ray":
        from engine import ray_crf

        return ray_crf.outcomes(args, job, ids, totals)
    from pipeline.stages import crf as stage_crf

    return stage_crf.run(job, ids, totals, args.num_workers)


def output(job: "CrfJob", cams_made_by: Mapping[str, Any], ids: Sequence[str]) -> run_log.Output:
    """Where the masks go, and what they have in common when they are made of such CAM files."""
    from clip.device import pick_device

    assert job.out_dir is not None
    settings = json.loads(job.record(cams_made_by, ()))
    del settings["keys"]  # the image's own
    device = str(pick_device(job.device)) if job.backend == "torch" else "cpu"
    return run_log.Output(job.out_dir, ".png", "--pseudo_mask_save_path", ids, settings, device, job.overwrite)


def _job(args: argparse.Namespace, selection: "Selection") -> "CrfJob":
    from common.files import need_dir, need_writable
    from pipeline.stages.crf import CrfJob, backend_for

    cams = args.cam_out_dir or output_dir(args.dataset, "cams")
    # A split such as train_aug holds ids without official masks, so outside the toy world scoring is asked for.
    scored = args.eval_only or args.gt_root is not None or args.dataset == "toyworld"
    out_dir = None if args.eval_only else args.pseudo_mask_save_path or output_dir(args.dataset, "masks")
    return CrfJob(
        cams=need_dir(cams, "--cam_out_dir", "the output of generate_cams.py"),
        images=selection.paths.images,
        out_dir=out_dir and need_writable(out_dir, "--pseudo_mask_save_path"),
        truth=selection.need_masks() if scored else None,
        num_classes=len(selection.spec.classes),
        cam_type=args.cam_type,
        crf_image=args.crf_image,
        backend=args.crf or backend_for(args.device),
        device=args.device,
        confidence=args.confidence,
        palette=args.palette,
        overwrite=args.overwrite,
        has_background=selection.spec.has_background,
    )


def _announce(args: argparse.Namespace, job: "CrfJob", count: int) -> None:
    print(f"data    {args.dataset}: {count} images in {job.images}, {job.cam_type} maps in {job.cams}")
    print(f"CRF     {job.backend} on the {job.crf_image} image, {job.crf.iterations} iterations")
    written = f"to {job.out_dir}, 255 below a probability of {job.confidence}" if job.out_dir else "not written"
    print(f"masks   {written}; {f'scored against {job.truth}' if job.truth else 'no --gt_root: not scored'}")


def _print_scores(
    args: argparse.Namespace, selection: "Selection", job: "CrfJob", totals: "Totals", log: run_log.RunLog
) -> None:
    from dataclasses import asdict

    from pipeline.stages.evaluate import cam_record
    from report import scores as report

    if not totals.images:
        print("nothing could be scored", file=sys.stderr)
        return
    confusion = totals.confusions[0]
    settings = {
        "crf_image": args.crf_image,
        "crf": job.backend,
        **asdict(job.crf),
        "cam_type": args.cam_type,
        "confidence": args.confidence,
        "cams": cam_record(job.cams, selection.ids),
    }
    result = report.summary(
        "crf",
        selection.spec,
        report.scores_of(confusion, args.absent),
        totals.images,
        selection.paths.split,
        confusion,
        settings=settings,
    )
    log.scored(result)
    report.print_table(result, splits=not selection.spec.has_background)
    report.write_json(args.json, result)


if __name__ == "__main__":
    sys.exit(main())
