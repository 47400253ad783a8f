"""Stage 1: images + labels -> class activation maps, before and after the affinity.

CUDA_VISIBLE_DEVICES=0 python generate_cams.py                       # the toy world
python generate_cams.py --dataset voc12 --img_root VOC2012/JPEGImages --model ViT-B-16.pt
"""

import argparse
import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console, run_log
from cli.model_options import (
    add_method_options,
    add_model_options,
    add_tag_options,
    count,
    maskclip_values,
    tag_values,
)
from cli.options import (
    Parser,
    add_cam_dir,
    add_data_options,
    add_log_options,
    add_own_data_options,
    data_options,
    output_dir,
    positive,
)
from common.cores import available_cores
from common.errors import EXIT_OK
from engine import ray_options

if TYPE_CHECKING:
    from cli.lookup import Selection
    from clip.load import Clip
    from dataset.spec import Sample
    from engine.processes import Work
    from pipeline.stages.cams import CamJob

BY_CLIP = "clip"  # --labels clip: TagCLIP
EVERY_CLASS = "all"  # --labels all, as in dataset.labels
TAG_FILE = "tags.txt"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + image-level labels -> class activation maps, one <id>.npz an image (CLIP-ES).",
        "Without arguments: the toy world. Finished files are kept: an interrupted run is continued by repeating it.",
    )
    add_data_options(parser, truth=False)
    add_own_data_options(parser)
    add_cam_dir(parser, "where the CAM files go")
    add_model_options(parser)
    add_method_options(parser)
    add_tag_options(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--save", choices=("grid", "highres"), default="grid", help="maps on the patch grid or full size")
    run.add_argument(
        "--max_side",
        type=positive,
        default=1024,
        help="larger images are shrunk to this for CLIP, masks are not",
    )
    run.add_argument(
        "--batch_size", type=positive, help="images of one patch grid that go together; not given: 16 on a GPU, else 1"
    )
    run.add_argument("--num_workers", type=positive, default=1, help="processes, one a GPU, as in the reference")
    run.add_argument(
        "--readers", type=count, help="processes a worker that read images; 0: threads; not given: 8 on a GPU, else 0"
    )
    run.add_argument("--overwrite", action="store_true", help="make files again that are there already")
    add_log_options(parser)
    ray_options.add_engine_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return ray_options.run("generate_cams.py", "cams", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from common.files import need_writable

    check_method(args)
    by_clip = args.labels == BY_CLIP
    selection = select_from(args, with_labels=not by_clip)
    out_dir = args.cam_out_dir or output_dir(args.dataset, "cams")
    samples, failures = ([], []) if by_clip else selection.samples()
    log.failed(failures)
    if samples or by_clip:
        need_writable(out_dir, "--cam_out_dir")
        job = make_job(args, worker=0)
        log.into(_output(args, job, selection))
        if by_clip:
            samples = tagged(args, job.clip, selection, out_dir / TAG_FILE, log)
        _make_cams(args, job, selection, samples, log)
    code = log.report("CAM files", out_dir)
    if code == EXIT_OK:
        truth_at_hand = args.dataset in ("toyworld", "voc12")
        stage, what = ("eval_cam.py", "scores") if truth_at_hand else ("eval_cam_with_crf.py", "masks")
        print(log.spell(f"next: python {stage}{_same_data(args)}   ({what})"))
    return code


def _make_cams(
    args: argparse.Namespace,
    job: "CamJob",
    selection: "Selection",
    samples: "Sequence[Sample]",
    log: run_log.RunLog,
) -> None:
    from pipeline.files.tag_journal import forget_journal
    from pipeline.stages.tags import write_labels

    _announce(args, job, selection.paths.images, len(samples))
    outcomes = _outcomes(args, job, samples)  # refuses what was made in another way, before anything is written
    if args.labels == BY_CLIP and samples:
        write_labels(job.out_dir / TAG_FILE, samples)
    log.follow(outcomes, len(samples), "CAMs")
    forget_journal(job.out_dir / TAG_FILE)


def _output(args: argparse.Namespace, job: "CamJob", selection: "Selection") -> run_log.Output:
    device = str(job.clip.device)
    return run_log.Output(job.out_dir, ".npz", "--cam_out_dir", selection.ids, job.made_by, device, args.overwrite)


def tagged(
    args: argparse.Namespace, clip: "Clip", selection: "Selection", file: Path, log: run_log.RunLog
) -> "list[Sample]":
    """`--labels clip`: the images with TagCLIP's labels; an interrupted run goes on from a journal beside the file."""
    from pipeline.files.tag_journal import journal_beside
    from pipeline.methods.tagclip import TagSettings
    from pipeline.stages import tags as stage_tags

    spec, images, settings = selection.spec, selection.paths.images, TagSettings(**tag_values(args))
    print(f"labels  of {len(selection.ids)} images by TagCLIP, kept in {file}")
    journal = journal_beside(file, stage_tags.journal_record(clip, spec, images, settings, args.templates))
    samples, failures = stage_tags.label_with_clip(clip, spec, images, selection.ids, settings, args.templates, journal)
    log.failed(selection.problems)
    log.failed(failures, "tags")
    return samples


def check_method(args: argparse.Namespace) -> None:
    """Raise UserError for a method that does not exist, or that does not know what it is told.

    One that scores all classes by itself needs no labels of a folder's images.
    """
    from pipeline.methods.table import METHODS, check_told

    check_told(args.method, maskclip_values(args))
    if args.labels is None and args.dataset == "folder" and METHODS[args.method].dense:
        args.labels = EVERY_CLASS


def make_job(args: argparse.Namespace, worker: int) -> "CamJob":
    """Load the model on the worker's device and encode the prompts."""
    from cli.lookup import DEFAULT_MODELS, dataset_spec
    from clip.device import pick_device
    from clip.load import load_clip
    from clip.text import unknown_words
    from pipeline.methods.table import METHODS, CamSettings
    from pipeline.stages.cams import CamJob, maskclip_settings, record, text_set

    spec = dataset_spec(args.dataset, args.classes)
    model, tag = (args.model, args.pretrained) if args.model else DEFAULT_MODELS[args.dataset]
    resnets = METHODS[args.method].resnets and args.labels != BY_CLIP  # TagCLIP needs a ViT
    clip = load_clip(model, args.pretrained or tag, pick_device(args.device, worker), args.activation, resnets)
    prompts = [prompt for group in (*spec.prompts, spec.background_prompts) for prompt in group]
    if worker == 0 and (unknown := unknown_words(clip, [spec.template.replace("{}", ""), *prompts])):
        print(f"warning: the model never saw these words: {', '.join(unknown)}", file=sys.stderr)
    threshold = spec.box_threshold if args.box_threshold is None else args.box_threshold
    own = maskclip_settings(clip, spec, args.method, maskclip_values(args))
    settings = CamSettings(
        args.method, threshold, tuple(args.scales), args.flip, args.max_side, args.precision, args.compile, own
    )
    full_size = args.save == "highres"
    out_dir = args.cam_out_dir or output_dir(args.dataset, "cams")
    made_by = record(clip, spec, settings, full_size)
    if args.dataset == "folder":  # ids such as IMG_0001 come again in other folders
        made_by["images"] = "/".join(args.img_root.resolve().parts[-2:])
    batch_size = args.batch_size or (1 if clip.device.type == "cpu" else 16)
    return CamJob(clip, text_set(clip, spec, settings), settings, out_dir, made_by, full_size, batch_size)


def _outcomes(args: argparse.Namespace, job: "CamJob", samples: "Sequence[Sample]") -> Iterator[console.Outcome]:
    if args.engine == "ray":
        from engine import ray_cams

        return ray_cams.outcomes(args, job, samples)
    from engine.processes import run_processes
    from pipeline.stages import cams as stage_cams
    from pipeline.stages.batches import plan

    finished = set() if args.overwrite else stage_cams.finished_ids(job, samples)
    batches = plan(job.reader, job.batch_size, samples, finished)
    if args.num_workers > 1:
        return run_processes(_set_up, (args, finished, args.num_workers), batches, args.num_workers)
    return _work(args, job, finished, 1)(batches)


def _work(args: argparse.Namespace, job: "CamJob", finished: set[str], processes: int) -> "Work":
    """What makes the CAM files of batches in one of so many processes of this machine."""
    from pipeline.stages import cams as stage_cams

    return partial(stage_cams.run_batches, job, finished=finished, readers=_readers(args, job, processes))


def _set_up(number: int, task: tuple[argparse.Namespace, set[str], int]) -> "Work":
    """In a worker process: its own model on its own device."""
    args, finished, processes = task
    return _work(args, _quiet_job(args, number), finished, processes)


def _quiet_job(args: argparse.Namespace, worker: int) -> "CamJob":
    with redirect_stderr(io.StringIO()):  # warnings, which another process told already
        return make_job(args, worker)


def _readers(args: argparse.Namespace, job: "CamJob", processes: int) -> int:
    if args.readers is not None:
        return args.readers
    return 0 if job.clip.device.type == "cpu" else min(8, max(1, available_cores() // processes - 1))


def _announce(args: argparse.Namespace, job: "CamJob", images: object, count: int) -> None:
    from cli.lookup import dataset_spec

    settings = job.settings
    augmented = f", scales {list(settings.scales)}{' and flip' if settings.flip else ''}"
    print(f"data    {args.dataset}: {count} images in {images}")
    if args.dataset == "folder":
        spec = dataset_spec(args.dataset, args.classes)
        print(f"words   {len(spec.classes)} classes, background {', '.join(spec.background_prompts)}")
    print(f"model   {job.clip.describe()} on {job.clip.device}")
    print(
        f"method  {settings.method}, box threshold {settings.box_threshold}"
        f"{augmented if settings.flip or settings.scales != (1.0,) else ''}, batches of {job.batch_size}"
    )


def _same_data(args: argparse.Namespace) -> str:
    told = argparse.Namespace(**{**vars(args), "labels": None if args.labels == BY_CLIP else args.labels})
    return data_options(told) + (f" --cam_out_dir {shlex.quote(str(args.cam_out_dir))}" if args.cam_out_dir else "")


if __name__ == "__main__":
    sys.exit(main())
