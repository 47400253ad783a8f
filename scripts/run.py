"""Images + labels -> masks in one process, for those who want masks only: no CAM files on the way.

python -m scripts.run                                                  # the toy world -> output/toyworld/masks
python -m scripts.run --dataset voc12 --img_root VOC2012/JPEGImages --model ViT-B-16.pt

The masks have the bytes that generate_cams.py and eval_cam_with_crf.py write with the same options, and either road
goes on with the masks of the other.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from cli import jobs, model_options, options, run_log
from dataset.spec import BY_CLIP

if TYPE_CHECKING:
    from cli.lookup import Selection
    from dataset.mask_folder import Masks


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.Parser(
        "Images + image-level labels -> PNG masks with 255 where confidence is low, in one process without CAM files.",
        "Without arguments: the toy world. Finished masks are kept: an interrupted run is continued by repeating it. "
        "The masks are those of generate_cams.py and eval_cam_with_crf.py, byte for byte; ground truth is needed for "
        "scores only.",
    )
    options.add_data_options(parser, truth=True)
    model_options.add_mask_options(parser)
    model_options.add_model_options(parser)
    model_options.add_method_options(parser)
    model_options.add_tag_options(parser)
    model_options.add_crf_options(parser)
    model_options.add_image_run_options(
        parser, workers=2, workers_help="images in the CRF side by side, beside the model"
    )
    options.add_shard(parser)
    options.add_absent(parser)
    options.add_json(parser)
    options.add_log_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_log.run("-m scripts.run", "masks", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from cli.proposals import voters
    from common.files import need_writable
    from pipeline.files.tag_journal import forget_journal
    from pipeline.stages import run as stage_run
    from pipeline.stages.tags import write_labels

    jobs.labels_for_method(args)
    by_clip = args.labels == BY_CLIP
    selection = select_from(args, images_needed=True, with_labels=not by_clip)
    samples, failures = ([], []) if by_clip else selection.samples()
    shard = options.shard_from(args)
    log.failed(failures if shard[0] == 0 else [])
    out_dir = args.pseudo_mask_save_path or options.output_dir(args.dataset, "masks")
    truth = truth_of(args, selection)
    jobs.check_json_scores(args, truth is not None)
    if samples or by_clip:
        need_writable(out_dir, "--pseudo_mask_save_path")
        voting = voters(args, selection.spec, out_dir.parent)
        cams = jobs.load_model(jobs.cam_job(args, selection.spec, out_dir, by_clip))
        job = jobs.crf_job(args, selection.spec, selection.paths.images, out_dir, out_dir, truth, voting)
        log.write_to(jobs.mask_output(job, cams.made_by, selection.ids), shard)
        jobs.announce_cams(cams, args.dataset, job.images, len(samples or selection.ids), selection.summary)
        jobs.announce_crf(job)
        if by_clip:
            samples = [tag.sample for tag in jobs.tagged(args, cams.clip, selection, out_dir / jobs.TAG_FILE, log)]
        if voting:
            job = voting.prepare(job, stage_run.of_shard(cams, samples, shard))
        finished = stage_run.finished_ids(cams, job, samples)  # refuses other settings before any writing
        if by_clip and samples:
            write_labels(out_dir / jobs.TAG_FILE, samples)
        totals = job.empty_totals()
        outcomes = stage_run.run(cams, job, samples, finished, totals, args.num_workers, shard=shard)
        log.follow(outcomes, len(range(shard[0], len(samples), shard[1])), "masks")
        forget_journal(out_dir / jobs.TAG_FILE)
        if truth is not None:
            jobs.print_crf_scores(args, selection, job, cams.made_by, totals, log)
    return log.report("masks", out_dir)


def truth_of(args: argparse.Namespace, selection: "Selection") -> "Masks | None":
    """The masks to score against: those of --gt_root, or the toy world's own.

    A split such as VOC's train_aug holds ids without official masks, so there scoring is asked for.
    """
    made_here = selection.spec.make_images is not None and selection.paths.masks is not None
    masks = selection.need_masks() if made_here or args.gt_root is not None else None
    if masks is not None:
        selection.check_masks(masks, "--gt_root")
    return masks


if __name__ == "__main__":
    sys.exit(main())
