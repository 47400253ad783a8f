"""Stage 1: images + labels -> class activation maps, before and after the affinity.

CUDA_VISIBLE_DEVICES=0 python generate_cams.py                       # the toy world
python generate_cams.py --dataset voc12 --img_root VOC2012/JPEGImages --model ViT-B-16.pt
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cli import engines, model_options, options, run_log
from cli.commands import spelled
from cli.jobs import TAG_FILE, announce_cams, cam_job, labels_for_method, load_model, same_data, tagged
from common.errors import EXIT_OK
from common.shard import WHOLE, Shard

if TYPE_CHECKING:
    from common.outcome import Outcome
    from dataset.spec import Sample
    from pipeline.stages.cams import CamWork


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.Parser(
        "Images + image-level labels -> class activation maps, one <id>.npz an image (CLIP-ES).",
        "Without arguments: the toy world. Finished files are kept: an interrupted run is continued by repeating it.",
    )
    options.add_data_options(parser, truth=False)
    options.add_cam_dir(parser, "where the CAM files go")
    model_options.add_model_options(parser)
    model_options.add_method_options(parser)
    model_options.add_tag_options(parser)
    parser.add_argument(
        "--save", choices=("grid", "highres"), default="grid", help="maps on the patch grid or full size"
    )
    model_options.add_image_run_options(parser, workers=1, workers_help="processes, one a GPU, as in the reference")
    options.add_shard(parser)
    options.add_log_options(parser)
    engines.add_engine_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return engines.run("generate_cams.py", "cams", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from common.files import need_writable
    from dataset.spec import BY_CLIP
    from pipeline.files.tag_journal import forget_journal
    from pipeline.stages.tags import write_labels

    labels_for_method(args)
    by_clip = args.labels == BY_CLIP
    selection = select_from(args, with_labels=not by_clip)
    out_dir = args.cam_out_dir or options.output_dir(args.dataset, "cams")
    samples, failures = ([], []) if by_clip else selection.samples()
    shard = options.shard_from(args)
    log.failed(failures if shard[0] == 0 else [])
    if samples or by_clip:
        need_writable(out_dir, "--cam_out_dir")
        work = load_model(cam_job(args, selection.spec, out_dir, by_clip))
        device = str(work.clip.device)
        log.write_to(
            run_log.Output(out_dir, ".npz", "--cam_out_dir", selection.ids, work.made_by, device, args.overwrite),
            shard,
        )
        if by_clip:
            samples = [tag.sample for tag in tagged(args, work.clip, selection, out_dir / TAG_FILE, log)]
        announce_cams(work, args.dataset, selection.paths.images, len(samples), selection.summary)
        outcomes = _outcomes(args, work, samples, shard)  # refuses other settings before anything is written
        if by_clip and samples:
            write_labels(out_dir / TAG_FILE, samples)
        log.follow(outcomes, len(range(shard[0], len(samples), shard[1])), "CAMs")
        forget_journal(out_dir / TAG_FILE)
    code = log.report("CAM files", out_dir)
    if code == EXIT_OK:
        stage, what = ("eval_cam.py", "scores") if selection.spec.has_usual_masks else ("eval_cam_with_crf.py", "masks")
        print(log.spell(f"next: {spelled(f'python {stage}')}{same_data(args)}   ({what})"))
    return code


def _outcomes(
    args: argparse.Namespace, work: "CamWork", samples: "Sequence[Sample]", shard: Shard
) -> "Iterator[Outcome]":
    if args.engine == "ray":
        from engine.ray_stage import cam_outcomes

        return cam_outcomes(args.cluster, work, samples, args.overwrite)
    from common.shard import every_nth
    from engine.processes import run_processes
    from pipeline.stages import cams
    from pipeline.stages.batches import Batch, plan, with_work

    batches: Iterable[Batch] = every_nth(plan(work.reader, work.batch_size, samples), shard)
    if shard != WHOLE:  # only what is this command's is looked at
        batches = list(batches)
        samples = [sample for batch in batches for sample in batch.samples]
    finished = set() if args.overwrite else cams.finished_ids(work, samples)
    batches = with_work(batches, finished)
    if args.num_workers > 1:
        return run_processes(cams.worker, (work.job, finished, args.num_workers), batches, args.num_workers)
    return cams.run_batches(work, batches, finished)


if __name__ == "__main__":
    sys.exit(main())
