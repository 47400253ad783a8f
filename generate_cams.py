"""Stage 1: images + labels -> class activation maps, before and after the affinity.

CUDA_VISIBLE_DEVICES=0 python generate_cams.py                       # the toy world
python generate_cams.py --dataset voc12 --img_root VOC2012/JPEGImages --model ViT-B-16.pt
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from common import console
from common.errors import EXIT_OK, UserError
from common.model_options import add_method_options, add_model_options, add_tag_options, count, tag_values
from common.options import (
    Parser,
    add_cam_dir,
    add_data_options,
    add_own_data_options,
    data_options,
    output_dir,
    positive,
)

if TYPE_CHECKING:
    from dataset.lookup import Selection
    from dataset.spec import Sample
    from pipeline.stage_cams import CamJob

BY_CLIP = "clip"  # --labels clip: TagCLIP
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
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from common.files import need_writable
    from dataset.lookup import select_from

    _check_method(args.method)
    by_clip = args.labels == BY_CLIP
    selection = select_from(args, with_labels=not by_clip)
    out_dir = args.cam_out_dir or output_dir(args.dataset, "cams")
    job = make_job(args, worker=0) if by_clip else None
    samples, failures = _tag(args, job, selection) if job else selection.samples()
    tally = console.Tally(failures=list(failures))
    if samples:
        need_writable(out_dir, "--cam_out_dir")
        job = job or make_job(args, worker=0)
        _announce(args, job, selection.paths.images, len(samples))
        outcomes = _outcomes(args, job, samples)  # refuses what was made in another way, before anything is written
        if by_clip:
            from pipeline.stage_tags import write_labels

            write_labels(out_dir / TAG_FILE, samples)
        for outcome in console.progress(outcomes, len(samples), "CAMs"):
            tally.add(outcome)
    code = tally.report("CAM files", out_dir)
    if code == EXIT_OK:
        truth_at_hand = args.dataset in ("toyworld", "voc12")
        stage, what = ("eval_cam.py", "scores") if truth_at_hand else ("eval_cam_with_crf.py", "masks")
        print(f"next: python {stage}{_same_data(args)}   ({what})")
    return code


def _tag(
    args: argparse.Namespace, job: "CamJob", selection: "Selection"
) -> "tuple[list[Sample], list[tuple[str, str]]]":
    """`--labels clip`: TagCLIP's labels, kept beside the CAM files."""
    from pipeline import stage_tags
    from pipeline.tagclip import TagSettings

    settings, images = TagSettings(**tag_values(args)), selection.paths.images
    print(f"labels  of {len(selection.ids)} images by TagCLIP, kept in {job.out_dir / TAG_FILE}")
    samples, failures = stage_tags.label_with_clip(
        job.clip, selection.spec, images, selection.ids, settings, args.templates
    )
    return samples, [*selection.problems, *failures]


def _check_method(name: str) -> None:
    from pipeline.methods import METHODS

    if name not in METHODS:
        raise UserError(f"--method {name}: unknown; expected one of {', '.join(METHODS)}")


def make_job(args: argparse.Namespace, worker: int) -> "CamJob":
    """Load the model on the worker's device and encode the prompts."""
    from clip.device import pick_device
    from clip.load import load_clip
    from clip.text import unknown_words
    from dataset.lookup import DEFAULT_MODELS, dataset_spec
    from pipeline.methods import CamSettings
    from pipeline.stage_cams import CamJob, record, text_set

    spec = dataset_spec(args.dataset, args.classes)
    model, tag = (args.model, args.pretrained) if args.model else DEFAULT_MODELS[args.dataset]
    clip = load_clip(model, args.pretrained or tag, pick_device(args.device, worker), args.activation)
    prompts = [prompt for group in (*spec.prompts, spec.background_prompts) for prompt in group]
    if worker == 0 and (unknown := unknown_words(clip, [spec.template.replace("{}", ""), *prompts])):
        print(f"warning: the model never saw these words: {', '.join(unknown)}", file=sys.stderr)
    threshold = spec.box_threshold if args.box_threshold is None else args.box_threshold
    settings = CamSettings(
        args.method, threshold, tuple(args.scales), args.flip, args.max_side, args.precision, args.compile
    )
    full_size = args.save == "highres"
    out_dir = args.cam_out_dir or output_dir(args.dataset, "cams")
    made_by = record(clip, spec, settings, full_size)
    if args.dataset == "folder":  # ids such as IMG_0001 come again in other folders
        made_by["images"] = "/".join(args.img_root.resolve().parts[-2:])
    batch_size = args.batch_size or (1 if clip.device.type == "cpu" else 16)
    return CamJob(clip, text_set(clip, spec), settings, out_dir, made_by, full_size, batch_size)


def _outcomes(args: argparse.Namespace, job: "CamJob", samples: "Sequence[Sample]") -> Iterator[console.Outcome]:
    from common.workers import run_workers
    from pipeline import stage_cams

    finished = set() if args.overwrite else stage_cams.finished_ids(job, samples)
    if args.num_workers == 1:
        return stage_cams.run(job, samples, finished, readers=_readers(args, job))
    from pipeline.batches import shards

    shares = shards(samples, args.num_workers)
    return run_workers(_work, [(vars(args), shard, finished) for shard in shares])


def _work(index: int, task: tuple[dict[str, Any], "Sequence[Sample]", set[str]]) -> Iterator[console.Outcome]:
    """One worker process: its own model on its own device, its share of the list."""
    from pipeline import stage_cams

    options, samples, finished = task
    args = argparse.Namespace(**options)
    job = make_job(args, index)
    return stage_cams.run(job, samples, finished, readers=_readers(args, job))


def _readers(args: argparse.Namespace, job: "CamJob") -> int:
    if args.readers is not None:
        return args.readers
    return 0 if job.clip.device.type == "cpu" else min(8, max(1, (os.cpu_count() or 1) // args.num_workers - 1))


def _announce(args: argparse.Namespace, job: "CamJob", images: object, count: int) -> None:
    from dataset.lookup import dataset_spec

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
