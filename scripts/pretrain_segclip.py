"""Images with captions -> a SegCLIP, pretrained from a CLIP; its file is the --model of --method segclip.

python -m scripts.pretrain_segclip --data train2014 --captions dataset_coco.json --init ViT-B-16.pt --out output/segclip
torchrun --nproc_per_node 8 -m scripts.pretrain_segclip --data 'cc3m/{00000..00331}.tar' --init ViT-B-16.pt --out OUT \
    --val_dataset voc12 --val_img_root VOC2012/JPEGImages --val_split VOC2012/ImageSets/Segmentation/val.txt
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console, pretraining_options
from cli.commands import spelled
from cli.options import Parser, settings_from
from common.cores import available_cores
from common.errors import EXIT_OK, UserError
from segclip.training.settings import Settings

if TYPE_CHECKING:
    from clip.load import Clip
    from segclip.training.trainer import Job, Validate
    from training.ranks import Ranks
    from training.state import State

SAVES = 50  # checkpoints of a run when nothing else is said


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images with captions -> SegCLIP, pretrained from a CLIP; segclip.safetensors in --out.",
        "An interrupted run is continued by repeating its command, in the middle of an epoch too. Several processes: "
        "torchrun --nproc_per_node N -m scripts.pretrain_segclip ...; --batch_size is that of each. Curves: "
        "tensorboard --logdir OUT.",
    )
    pretraining_options.add_pretraining_options(parser)
    args = parser.parse_args(argv)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args), quiet=os.environ.get("RANK", "0") != "0")


def _run(args: argparse.Namespace) -> int:
    pretraining_options.check(args)
    from training.ranks import start_ranks

    with start_ranks(args.device) as ranks:
        return _pretrain(args, ranks)


def _pretrain(args: argparse.Namespace, ranks: "Ranks") -> int:
    from common.files import need_writable
    from segclip.training.trainer import WEIGHTS, train

    clip = _clip(args)
    need_writable(args.out, "--out")
    job, problems = _job(args, clip, ranks)
    state = _state(args, job, clip, ranks)
    _announce(args, job, clip, state, ranks)
    report = train(job, state, ranks)
    score = f", mIoU {100 * report.scores['miou']:.1f}" if report.scores else ""
    skipped = f", {state.skipped} steps skipped whose loss was no number" if state.skipped else ""
    print(f"{args.out / WEIGHTS}: SegCLIP after {state.iteration} iterations{score}{skipped}")
    model = f"--method segclip --model {args.out / WEIGHTS}"
    print(spelled(f"next: python generate_cams.py {model} --dataset folder --img_root DIR --classes FILE"))
    return console.list_failures([*problems, *report.failures.items()]) if ranks.first else EXIT_OK


def _clip(args: argparse.Namespace) -> "Clip":
    """The CLIP to start from, on the CPU."""
    from clip.load import load_clip

    try:
        return load_clip(args.init, args.pretrained, "cpu", args.activation)
    except UserError as error:
        raise UserError(str(error).replace("--model", "--init")) from error


def _job(args: argparse.Namespace, clip: "Clip", ranks: "Ranks") -> tuple["Job", list[tuple[str, str]]]:
    """The run, and what is wrong with captions or shards."""
    from segclip.training.captions import caption_file, read_captions
    from segclip.training.shards import counted, find_shards, holds_shards
    from segclip.training.trainer import Job

    if holds_shards(args.data):
        if args.captions or args.superpixels not in (None, pretraining_options.MADE):
            raise UserError("--captions, --superpixels DIR: of a folder; tar files hold theirs")
        shards, problems = counted(find_shards(args.data))
        pairs, maps, names = [], None, tuple(shard.path.name for shard in shards)
        count = sum(shard.samples for shard in shards)
    else:
        folder = _folder(args.data)
        captions = args.captions or caption_file(folder)
        found = read_captions(folder, captions, args.splits)
        pairs, problems, shards = found.pairs, found.problems, []
        maps, count = _maps(args, folder), len(pairs)
        names = (captions.name, *args.splits, maps.name if maps else "")
        for remark in found.remarks if ranks.first else ():
            print(f"warning: {remark}", file=sys.stderr)
    side = clip.visual.image_size
    settings: Settings = settings_from(
        args,
        Settings,
        clip=clip.fingerprint,
        activation=clip.activation,
        pairs=count,
        data=names,
        side=side,
        ranks=ranks.count,
    )
    if not settings.epoch:
        everywhere = f" in each of {ranks.count} processes" if ranks.count > 1 else ""
        raise UserError(f"--batch_size {settings.batch}{everywhere}: there are only {count} captions; take fewer")
    usual_readers = 0 if ranks.device.type == "cpu" else min(8, max(1, available_cores() // ranks.count - 1))
    job = Job(
        settings,
        args.out,
        pairs,
        maps,
        shards,
        _validate(args, clip, ranks),
        args.save_every or max(1, settings.iterations // SAVES),
        args.val_every or max(1, settings.iterations // 10),
        args.keep,
        usual_readers if args.readers is None else max(0, args.readers),
    )
    return job, problems


def _folder(data: list[str]) -> Path:
    from common.files import need_dir

    if len(data) > 1:
        raise UserError(f"--data {data[1]}: no tar file; expected one folder of images, or tar files")
    return need_dir(Path(data[0]), "--data", "a folder of images with captions, or tar files")


def _maps(args: argparse.Namespace, folder: Path) -> Path | None:
    """The folder of the maps of superpixels, or None: they are made when they are needed, or not at all."""
    from common.files import need_dir
    from segclip.training.superpixels import maps_beside

    if args.no_superpixels or args.superpixels == pretraining_options.MADE:
        return None
    if args.superpixels is not None:
        return need_dir(Path(args.superpixels), "--superpixels", "what scripts/superpixels.py made")
    beside = maps_beside(folder)
    return beside if beside.is_dir() else None


def _validate(args: argparse.Namespace, clip: "Clip", ranks: "Ranks") -> "Validate | None":
    """What scores the network on the held-out images."""
    if args.val_dataset is None:
        return None
    from functools import partial

    from cli.lookup import select
    from pipeline.methods.segclip import METHOD, SegClipSettings
    from segclip.training.validation import HeldOut

    selection = select(
        args.val_dataset, args.val_img_root, args.val_split, args.gt_root, args.val_classes, images_needed=True
    )
    options = METHOD.complete(clip, selection.spec, SegClipSettings(args.background_threshold))
    ids = selection.ids[: args.val_images]
    images, truth = selection.paths.images, selection.need_masks()
    return partial(HeldOut(selection.spec, ids, images, truth, clip.activation, options), ranks=ranks)


def _state(args: argparse.Namespace, job: "Job", clip: "Clip", ranks: "Ranks") -> "State":
    """Fresh weights, or those of the last checkpoint in --out."""
    from common.files import sweep_leftovers
    from segclip.training.trainer import WEIGHTS, begin, start
    from training.state import checkpoints, remove_run, resume

    if ranks.first:
        sweep_leftovers(args.out)
        if args.overwrite:
            remove_run(args.out)
            (args.out / WEIGHTS).unlink(missing_ok=True)
    ranks.wait()
    if (args.out / WEIGHTS).exists() and not checkpoints(args.out):
        raise UserError(f"--out {args.out}: holds {WEIGHTS} without checkpoints; pass --overwrite or another --out")
    state = start(job, begin(clip, job.settings), ranks)
    resume(args.out, state, job.settings.record())
    return state


def _announce(args: argparse.Namespace, job: "Job", clip: "Clip", state: "State", ranks: "Ranks") -> None:
    """Print what is about to be done, before it takes long."""
    from training.state import CHECKPOINTS

    settings = job.settings
    what = f"{len(job.shards)} tar files" if job.shards else " ".join(args.data)
    print(f"data    {settings.pairs} captions of {what}; {settings.epoch} batches an epoch")
    if settings.superpixels:
        made = "those in the tar files, else made when they are needed" if job.shards else "made when they are needed"
        print(f"regions superpixels {f'in {job.maps}' if job.maps else made}")
    learned = sum(weight.numel() for weight in state.network.parameters() if weight.requires_grad)
    all_of_it = sum(weight.numel() for weight in state.network.parameters())
    print(f"start   {clip.describe()}")
    print(f"network {settings.groups} groups, {all_of_it / 1e6:.2f} M weights, {learned / 1e6:.2f} M of them learn")
    processes = f", {ranks.count} processes" if ranks.count > 1 else ""
    print(f"device  {ranks.device}{processes}, {settings.precision}")
    pairs = settings.batch * settings.accumulate * settings.ranks
    print(f"learns  rate {settings.lr:g} (CLIP's blocks {settings.lr * settings.clip_factor:g}), {pairs} pairs a step, "
          f"{settings.iterations} steps")  # fmt: skip
    if state.iteration:
        print(f"goes on from iteration {state.iteration} in {args.out / CHECKPOINTS}")


if __name__ == "__main__":
    sys.exit(main())
