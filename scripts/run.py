"""Images + labels -> masks in one process, for those who want masks only: no CAM files on the way.

python -m scripts.run                                                  # the toy world -> output/toyworld/masks
python -m scripts.run --dataset voc12 --img_root VOC2012/JPEGImages --model ViT-B-16.pt

The masks have the bytes that generate_cams.py and eval_cam_with_crf.py write with the same options, and either road
goes on with the masks of the other.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import generate_cams
from cli import run_log
from cli.model_options import (
    add_crf_options,
    add_method_options,
    add_model_options,
    add_tag_options,
    count,
)
from cli.options import (
    Parser,
    add_absent,
    add_data_options,
    add_json,
    add_log_options,
    add_own_data_options,
    output_dir,
    positive,
)
from common.cores import available_cores
from common.errors import UserError
from eval_cam_with_crf import output
from generate_cams import BY_CLIP, TAG_FILE, check_method, make_job, tagged

if TYPE_CHECKING:
    from cli.lookup import Selection
    from dataset.spec import Sample
    from pipeline.stages.evaluate import Totals
    from pipeline.stages.run import RunJob


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + image-level labels -> PNG masks with 255 where confidence is low, in one process without CAM files.",
        "Without arguments: the toy world. Finished masks are kept: an interrupted run is continued by repeating it. "
        "The masks are those of generate_cams.py and eval_cam_with_crf.py, byte for byte; ground truth is needed for "
        "scores only.",
    )
    add_data_options(parser, truth=True)
    add_own_data_options(parser)
    parser.add_argument(
        "--pseudo_mask_save_path", type=Path, metavar="DIR", help="where the masks go; not given: output/DATASET/masks"
    )
    add_model_options(parser)
    add_method_options(parser)
    add_tag_options(parser)
    parser.add_argument("--cam_type", choices=("attn_highres", "highres"), default="attn_highres", help="which maps")
    add_crf_options(parser)
    parser.add_argument("--palette", action="store_true", help="write coloured masks of mode P, for people")
    run = parser.add_argument_group("run")
    run.add_argument(
        "--max_side", type=positive, default=1024, help="larger images are shrunk to this for CLIP, masks are not"
    )
    run.add_argument(
        "--batch_size", type=positive, help="images of one patch grid that go together; not given: 16 on a GPU, else 1"
    )
    run.add_argument(
        "--readers", type=count, help="processes that read images; 0: threads; not given: 8 on a GPU, else 0"
    )
    run.add_argument("--num_workers", type=positive, default=2, help="images in the CRF side by side, beside the model")
    run.add_argument("--overwrite", action="store_true", help="make masks again that are there already")
    add_absent(parser)
    add_json(parser)
    add_log_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_log.run("-m scripts.run", "masks", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from common.files import check_place

    check_choices(args)
    by_clip = args.labels == BY_CLIP
    selection = select_from(args, images_needed=True, with_labels=not by_clip)
    samples, failures = ([], []) if by_clip else selection.samples()
    log.failed(failures)
    out_dir = args.pseudo_mask_save_path or output_dir(args.dataset, "masks")
    if samples or by_clip:
        job = make_run_job(args, selection, out_dir)
        check_place(args.json, "--json", "scores.json")
        log.into(output(job.crf, job.cams.made_by, selection.ids))
        announce(args, job, selection, len(samples or selection.ids))
        if by_clip:
            samples = tagged(args, job.cams.clip, selection, out_dir / TAG_FILE, log)
        _make_masks(args, job, selection, samples, log)
    return log.report("masks", out_dir)


def _make_masks(
    args: argparse.Namespace,
    job: "RunJob",
    selection: "Selection",
    samples: "Sequence[Sample]",
    log: run_log.RunLog,
) -> None:
    from pipeline.files.tag_journal import forget_journal
    from pipeline.stages import run as stage_run
    from pipeline.stages.tags import write_labels

    labels = job.cams.out_dir / TAG_FILE
    finished = stage_run.finished_ids(job, samples)  # refuses what was made in another way, before anything is written
    if args.labels == BY_CLIP and samples:
        write_labels(labels, samples)
    totals = job.crf.empty_totals()
    outcomes = stage_run.run(job, samples, finished, totals, args.num_workers, readers_of(args, job))
    log.follow(outcomes, len(samples), "masks")
    forget_journal(labels)
    if job.crf.truth is not None:
        _print_scores(args, selection, job, totals, log)


def check_choices(args: argparse.Namespace) -> None:
    """Raise UserError for a method that does not exist, and for scores that are asked for and cannot be had."""
    from common.files import need_writable

    check_method(args)
    if args.json is None:
        return
    if args.gt_root is None and args.dataset != "toyworld":
        raise UserError(f"--json {args.json}: there are no scores without ground truth; pass --gt_root DIR too")
    if args.json.is_dir():  # said now: the work would have to be done again for the scores
        raise UserError(f"--json {args.json}: a folder; expected a file to write the scores into")
    need_writable(args.json.parent, "--json, in")


# --- set-up ---------------------------------------------------------------------------------------


def make_run_job(args: argparse.Namespace, selection: "Selection", out_dir: Path) -> "RunJob":
    """The jobs of both stages; raises UserError before the model is loaded when masks cannot be written."""
    from common.files import need_writable
    from pipeline.stages.crf import CrfJob, backend_for
    from pipeline.stages.run import RunJob

    truth = truth_of(args, selection)
    need_writable(out_dir, "--pseudo_mask_save_path")
    cams = make_job(cam_options(args, out_dir), worker=0)
    crf = CrfJob(
        cams=cams.out_dir,
        images=selection.paths.images,
        out_dir=out_dir,
        truth=truth,
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
    return RunJob(cams, crf)


def cam_options(args: argparse.Namespace, out_dir: Path) -> argparse.Namespace:
    """The options of generate_cams.py: ours where we have one, its defaults elsewhere."""
    return argparse.Namespace(**{**vars(generate_cams.parse([])), **vars(args), "cam_out_dir": out_dir})


def truth_of(args: argparse.Namespace, selection: "Selection") -> Path | None:
    """The masks to score against: those of --gt_root, or the toy world's own.

    A split such as VOC's train_aug holds ids without official masks, so there scoring is asked for.
    """
    own = args.dataset == "toyworld" and selection.paths.masks is not None
    return selection.need_masks() if own or args.gt_root is not None or args.json is not None else None


def readers_of(args: argparse.Namespace, job: "RunJob") -> int:
    """How many processes read: as told, or a few where a GPU waits for them and cores can be spared."""
    if args.readers is not None:
        return args.readers
    return 0 if job.cams.clip.device.type == "cpu" else min(8, max(1, available_cores() - args.num_workers - 1))


# --- what is told ---------------------------------------------------------------------------------


def announce(args: argparse.Namespace, job: "RunJob", selection: "Selection", count: int) -> None:
    """What is about to be done, before it takes long."""
    cams, crf = job.cams.settings, job.crf
    augmented = f", scales {list(cams.scales)}{' and flip' if cams.flip else ''}"
    print(f"data    {args.dataset}: {count} images in {crf.images}")
    if args.dataset == "folder":
        spec = selection.spec
        print(f"words   {len(spec.classes)} classes, background {', '.join(spec.background_prompts)}")
    print(f"model   {job.cams.clip.describe()} on {job.cams.clip.device}")
    print(
        f"method  {cams.method}, box threshold {cams.box_threshold}"
        f"{augmented if cams.flip or cams.scales != (1.0,) else ''}, batches of {job.cams.batch_size}"
    )
    print(f"CRF     {crf.backend} on the {crf.crf_image} image, {crf.crf.iterations} iterations, {crf.cam_type} maps")
    scored = f"scored against {crf.truth}" if crf.truth else "no --gt_root: not scored"
    print(f"masks   to {crf.out_dir}, 255 below a probability of {crf.confidence}; {scored}")


def _print_scores(
    args: argparse.Namespace, selection: "Selection", job: "RunJob", totals: "Totals", log: run_log.RunLog
) -> None:
    from pipeline.stages import run as stage_run
    from report import scores as report

    if not totals.images:
        print("nothing could be scored", file=sys.stderr)
        return
    spec = selection.spec
    result = stage_run.summary(job, spec, selection.paths.split, totals, args.absent)
    log.scored(result)
    report.print_table(result, splits=not spec.has_background)
    report.write_json(args.json, result)


if __name__ == "__main__":
    sys.exit(main())
