"""Stage 2: CAM files or masks + ground truth -> scores.

python eval_cam.py                                      # refined maps of the toy world
python eval_cam.py --cam_type highres                   # before the affinity
python eval_cam.py --cam_type png --cam_out_dir MASKS   # written masks, 255 counted as not predicted
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from cli import options, run_log
from common.arguments import not_negative, positive
from common.errors import UserError

if TYPE_CHECKING:
    from cli.lookup import Selection
    from pipeline.stages.evaluate import EvalJob, Totals

CAM_TYPES = ("attn_highres", "highres", "png")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.Parser(
        "CAM files or masks + ground truth -> mIoU and more, for every background setting in one pass."
    )
    options.add_data_options(parser, truth=True)
    options.add_cam_dir(parser, "where the CAM files (or, with --cam_type png, the masks) are")
    parser.add_argument("--cam_type", choices=CAM_TYPES, default="attn_highres", help="refined, unrefined, or masks")
    parser.add_argument(
        "--cam_eval_thres",
        type=not_negative,
        default=2,
        help="below 1: sweep constant background scores 0.05..0.6 and this one; else sweep exponents of (1 - max cam)",
    )
    parser.add_argument(
        "--bg_precision",
        choices=("float32", "float16"),
        default="float32",
        help="precision of the background score; the reference computed it in float16",
    )
    options.add_absent(parser)
    parser.add_argument(
        "--splits", action="store_true", help="show the means of seen and unseen classes too, and their harmonic mean"
    )
    parser.add_argument("--num_workers", type=positive, default=2, help="images that are read side by side")
    options.add_json(parser)
    options.add_log_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_log.run("eval_cam.py", "scores", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from common.files import check_place

    selection = select_from(args)
    from pipeline.files.cam_file import check_classes
    from pipeline.stages import evaluate as stage_eval

    if args.splits and not selection.spec.unseen:
        raise UserError(f"--splits: {selection.spec.name} has no split into seen and unseen classes; leave it out")
    job = _job(args, selection)
    check_classes(job.folder, stage_eval.cam_record(job.folder, selection.ids), selection.spec)
    check_place(args.json, "--json", "scores.json")
    selection.check_masks(job.truth, "--gt_root")
    if args.cam_type == "png":
        stage_eval.check_predicted(job, selection.ids)
    selection.print_labels()
    print(f"scoring {args.cam_type} of {len(selection.ids)} images in {job.folder} against {job.truth}")
    totals = job.empty_totals()
    log.failed(selection.problems)
    log.follow(stage_eval.run(job, selection.ids, totals, args.num_workers), len(selection.ids), "scores")
    if totals.images:
        _print_scores(args, selection, job, totals, log)
    else:
        print("nothing could be scored", file=sys.stderr)
    return log.report()


def _job(args: argparse.Namespace, selection: "Selection") -> "EvalJob":
    import numpy as np

    from common.files import need_any, need_dir
    from pipeline.files.cam_file import kind_of
    from pipeline.stages.evaluate import EvalJob, cam_record
    from pipeline.steps.scores import backgrounds_for

    masks, spec = args.cam_type == "png", selection.spec
    folder = args.cam_out_dir or options.output_dir(args.dataset, "masks" if masks else "cams")
    holds = f"the output of {'eval_cam_with_crf.py' if masks else 'generate_cams.py'}"
    need_dir(folder, "--cam_out_dir", holds)
    truth = selection.need_masks()
    files = (folder / f"{image_id}{'.png' if masks else '.npz'}" for image_id in selection.ids)
    need_any(folder, files, "--cam_out_dir", holds)
    swept = not masks and spec.has_background and kind_of(cam_record(folder, selection.ids)) == "cam"
    return EvalJob(
        folder,
        truth,
        args.cam_type,
        spec.num_labels,
        backgrounds_for(args.cam_type, args.cam_eval_thres) if swept else (1.0,),
        np.float16 if args.bg_precision == "float16" else np.float32,
        spec.has_background,
    )


def _print_scores(
    args: argparse.Namespace, selection: "Selection", job: "EvalJob", totals: "Totals", log: run_log.RunLog
) -> None:
    from pipeline.stages.evaluate import cam_record
    from report import scores as report

    spec, split, masks = selection.spec, selection.paths.split, args.cam_type == "png"
    stage = "masks" if masks else report.STAGES[args.cam_type]
    more: dict[str, Any] = {}
    if not masks:
        made_by = cam_record(job.folder, selection.ids)
        more["settings"] = {"cam_type": args.cam_type, "bg_precision": args.bg_precision, "cams": made_by}
    if len(job.backgrounds) > 1:
        result = report.swept_summary(
            stage, spec, totals.confusions, job.backgrounds, totals.images, split, args.absent, **more
        )
    else:  # masks, maps with a background score of their own, or a data set without background
        confusion = totals.confusions[0]
        scores = report.scores_of(confusion, args.absent)
        result = report.summary(stage, spec, scores, totals.images, split, confusion, **more)
    log.add_scores(result)
    report.print_table(result, splits=args.splits or not spec.has_background)
    report.write_json(args.json, result)


if __name__ == "__main__":
    sys.exit(main())
