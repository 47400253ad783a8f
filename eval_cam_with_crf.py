"""Stage 3: CAM files + images -> DenseCRF -> confidence masking -> PNG masks, and scores where there is ground truth.

python eval_cam_with_crf.py                # the toy world: writes the masks and scores them
python eval_cam_with_crf.py --eval_only    # scores only, writes nothing
"""

import argparse
import sys
from collections.abc import Iterator

from cli import engines, options, run_log
from cli.jobs import announce_crf, check_json_scores, crf_job, mask_output, print_crf_scores
from cli.model_options import add_crf_options, add_mask_options
from common.arguments import positive
from common.outcome import Outcome
from common.shard import every_nth


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.Parser(
        "CAM files + images -> DenseCRF -> PNG masks with 255 where confidence is low; scores before the 255s.",
        "Ground truth is needed for scores only, which are those of the labels before the 255s, as published.",
    )
    options.add_data_options(parser, truth=True)
    options.add_cam_dir(parser, "where the CAM files are")
    add_mask_options(parser)
    parser.add_argument("--eval_only", action="store_true", help="score only, write no masks")
    add_crf_options(parser)
    parser.add_argument("--device", default="auto", help="of the CRF on a GPU: auto, cpu, cuda, cuda:1")
    parser.add_argument("--num_workers", type=positive, default=2, help="images that are worked on side by side")
    parser.add_argument("--overwrite", action="store_true", help="make masks again that are there already")
    options.add_shard(parser)
    options.add_absent(parser)
    options.add_json(parser)
    options.add_log_options(parser)
    engines.add_engine_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return engines.run("eval_cam_with_crf.py", "crf", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from cli.proposals import voters, without_labels
    from common.errors import UserError
    from common.files import need_any, need_dir, need_writable
    from pipeline.files.cam_file import check_classes
    from pipeline.stages.evaluate import cam_record

    selection, shard = select_from(args, images_needed=True), options.shard_from(args)
    cams = args.cam_out_dir or options.output_dir(args.dataset, "cams")
    need_dir(cams, "--cam_out_dir", "the output of generate_cams.py")
    # A split such as train_aug holds ids without official masks, so outside the toy world scoring is asked for.
    scored = args.eval_only or args.gt_root is not None or selection.spec.make_images is not None
    truth = selection.need_masks() if scored else None
    if args.engine != "ray":  # which looks for itself, and copies but a few
        files = (cams / f"{image_id}.npz" for image_id in selection.ids)
        need_any(cams, files, "--cam_out_dir", "the output of generate_cams.py")
    if truth is not None:
        selection.check_masks(truth, "--gt_root")
    out_dir = None if args.eval_only else args.pseudo_mask_save_path or options.output_dir(args.dataset, "masks")
    if out_dir is not None:
        need_writable(out_dir, "--pseudo_mask_save_path")
    voting = voters(args, selection.spec, cams.parent)
    if voting and args.engine == "ray":
        raise UserError("--refine sam with --engine ray: workers do not see the masks that vote; use --engine local")
    job = crf_job(args, selection.spec, selection.paths.images, cams, out_dir, truth, voting)
    made_by = cam_record(cams, selection.ids)
    check_classes(cams, made_by, selection.spec)
    check_json_scores(args, scored)
    if out_dir is not None:
        log.write_to(mask_output(job, made_by, selection.ids), shard)
    print(f"data    {args.dataset}: {len(selection.ids)} images in {job.images}, CAM files in {cams}")
    selection.print_labels()
    announce_crf(job)
    totals = job.empty_totals()
    log.failed(selection.problems if shard[0] == 0 else [])
    ids = list(every_nth(selection.ids, shard))
    if voting:
        job = voting.prepare(job, without_labels(job.images, ids)[0])
    outcomes: Iterator[Outcome]
    if args.engine == "ray":
        from engine.ray_stage import crf_outcomes

        outcomes = crf_outcomes(args.cluster, job, ids, totals)
    else:
        from pipeline.stages import crf

        outcomes = crf.run(job, ids, totals, args.num_workers)
    log.follow(outcomes, len(ids), "CRF")
    if truth is not None:
        print_crf_scores(args, selection, job, made_by, totals, log)
    return log.report("masks", out_dir) if out_dir else log.report()


if __name__ == "__main__":
    sys.exit(main())
