"""Images + mask PNGs -> a trained segmentation network (SegFormer or DeepLab); 255 in a mask is not trained on.

python -m scripts.train_segmentor --masks output/toyworld/masks --arch segformer-tiny --crop 128 --batch_size 8 \
    --lr 1e-3 --max_iters 800 --out output/toyworld/segmentor                                     # the toy world
torchrun --nproc_per_node 4 -m scripts.train_segmentor --dataset voc12 --img_root VOC2012/JPEGImages \
    --masks output/voc12/masks --arch segformer-b2 --pretrained nvidia/mit-b2 --out output/voc12/segmentor
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import console
from common.errors import EXIT_OK, UserError
from common.options import Parser, add_data_options, add_own_data_options, not_negative, positive, share

if TYPE_CHECKING:
    from dataset.lookup import Selection
    from segmentor.augment import Views
    from segmentor.ranks import Ranks
    from segmentor.samples import Pair
    from segmentor.settings import Settings
    from segmentor.state import State
    from segmentor.trainer import Job
    from segmentor.validation import Unseen

ARCHES = (
    *(f"segformer-{size}" for size in ("b0", "b1", "b2", "b3", "b4", "b5", "tiny")),
    *(f"deeplabv3-{backbone}" for backbone in ("resnet50", "resnet101", "mobilenet")),
)
BY_OPTIMIZER: dict[str, dict[str, Any]] = {  # what is not given: the values of the published trainings
    "adamw": {"lr": 6e-5, "min_lr": 0.0, "weight_decay": 0.004, "power": 1.0, "head_factor": 10.0, "warmup": 1500},
    "sgd": {"lr": 0.01, "min_lr": 1e-4, "weight_decay": 5e-4, "power": 0.9, "head_factor": 1.0, "warmup": 0},
}
LONGEST_WARMUP = 10  # not given: at most this part of the iterations


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + mask PNGs -> a segmentation network, weights.safetensors in --out.",
        "An interrupted run is continued by repeating its command. Several processes: torchrun --nproc_per_node N "
        "-m scripts.train_segmentor ...; --batch_size is that of each. Curves and pictures: tensorboard --logdir OUT.",
    )
    add_data_options(parser, truth=True)
    add_own_data_options(parser)
    _add_run_options(parser)
    _add_network_options(parser)
    _add_view_options(parser)
    _add_learning_options(parser)
    return parser.parse_args(argv)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--masks", type=Path, metavar="DIR", required=True, help="mask PNGs, named like the images")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="where weights, checkpoints and logs go")
    unseen = parser.add_argument_group("validation, against --gt_root")
    unseen.add_argument("--val_split", type=Path, metavar="FILE", help="images to score now and then; not trained on")
    unseen.add_argument("--val_img_root", type=Path, metavar="DIR", help="where they are; not given: --img_root")
    unseen.add_argument("--val_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    run = parser.add_argument_group("run")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    run.add_argument("--readers", type=int, metavar="N", help="processes that read; not given: 8 on a GPU, else 0")
    run.add_argument("--save_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    run.add_argument("--keep", type=positive, default=2, metavar="N", help="checkpoints that stay")
    run.add_argument("--seed", type=int, default=0, help="of start weights, order and views")
    run.add_argument("--overwrite", action="store_true", help="begin again, whatever --out holds of an earlier run")


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--arch", choices=ARCHES, default="segformer-b0", help="segformer-tiny is for the toy world")
    group.add_argument(
        "--pretrained",
        metavar="FILE|DIR|NAME",
        help="weights to start from: of an earlier training, of transformers (nvidia/mit-b0) for SegFormer, of "
        "torchvision (ResNet101_Weights.IMAGENET1K_V2) for DeepLab; not given: random",
    )
    group.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network"
    )


def _add_view_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("views of an image")
    group.add_argument("--crop", type=positive, default=512, metavar="N", help="side of the square that is cut out")
    group.add_argument(
        "--scales", type=_factor, nargs=2, default=[0.5, 2.0], metavar="X", help="least and greatest random size"
    )
    group.add_argument(
        "--resize", type=positive, nargs=2, metavar="N", help="fit into this box (long and short side) before that"
    )
    group.add_argument("--no_flip", action="store_true", help="never mirror")
    group.add_argument("--no_colours", action="store_true", help="never vary brightness, contrast, saturation, hue")
    group.add_argument(
        "--normalisation", choices=("imagenet", "clip"), default="imagenet", help="mean and deviation of the input"
    )


def _add_learning_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning")
    group.add_argument("--max_iters", type=positive, default=20000, metavar="N", help="changes of the weights")
    group.add_argument("--batch_size", type=positive, default=8, metavar="N", help="images that go together")
    group.add_argument("--accumulate", type=positive, default=1, metavar="N", help="batches before the weights change")
    group.add_argument(
        "--optimizer", choices=tuple(BY_OPTIMIZER), default="adamw", help="adamw: beta .9, .999; sgd: momentum .9"
    )
    group.add_argument("--lr", type=not_negative, metavar="X", help="not given: 6e-5 with adamw, 0.01 with sgd")
    group.add_argument("--min_lr", type=not_negative, metavar="X", help="at the end; not given: 0, 1e-4 with sgd")
    group.add_argument("--weight_decay", type=not_negative, metavar="X", help="not given: 0.004, 5e-4 with sgd")
    group.add_argument(
        "--warmup", type=int, metavar="N", help="iterations; not given: 1500, 0 with sgd, at most a tenth of the run"
    )
    group.add_argument(
        "--poly", type=not_negative, metavar="X", help="power of the schedule; not given: 1, 0.9 with sgd"
    )
    group.add_argument(
        "--head_lr", type=not_negative, metavar="X", help="times --lr for decoder and head; not given: 10, 1 with sgd"
    )
    group.add_argument(
        "--loss", choices=("ce", "balanced"), default="ce", help="balanced: background and classes weigh one half each"
    )
    group.add_argument(
        "--loss_over",
        choices=("valid", "all"),
        default="valid",
        help="all: divided by ignored pixels too, as mmseg does",
    )
    group.add_argument(
        "--ema", type=share, default=0.0, metavar="X", help="decay of a running mean of the weights, 0.999"
    )


def _factor(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 20:
        raise argparse.ArgumentTypeError(f"{text}: expected a factor from 0.05 to 20")
    return value


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args), quiet=os.environ.get("RANK", "0") != "0")


def _run(args: argparse.Namespace) -> int:
    _check(args)
    from segmentor.ranks import joined

    with joined(args.device) as ranks:
        return _train(args, ranks)


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for numbers that do not go together."""
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: expected 0 or more")
    if args.crop < 32:
        raise UserError(f"--crop {args.crop}: expected at least 32 pixels")
    if args.scales[0] > args.scales[1]:
        raise UserError(f"--scales {args.scales[0]:g} {args.scales[1]:g}: expected the smaller one first")
    if args.ema >= 1:
        raise UserError(f"--ema {args.ema:g}: expected a decay below 1, such as 0.999")
    if args.arch.startswith("deeplab") and args.batch_size < 2:
        raise UserError(f"--batch_size 1: {args.arch} needs at least 2; its batch norm cannot work with one image")
    if (args.val_split is None) != (args.gt_root is None) and args.val_split is None:
        raise UserError("--gt_root: only with --val_split FILE, the images to validate on")


# --- set-up ---------------------------------------------------------------------------------------


def _train(args: argparse.Namespace, ranks: "Ranks") -> int:
    from common.files import need_dir, need_writable
    from dataset.lookup import select_from

    by_clip = args.labels == "clip"  # masks made with labels by CLIP: nothing to read here
    selection = select_from(args, images_needed=True, with_labels=not by_clip)
    need_dir(args.masks, "--masks", "one mask PNG an image, as eval_cam_with_crf.py writes them")
    pairs, failures = _pairs(args, selection)
    job = _job(args, selection, pairs, ranks)
    need_writable(args.out, "--out")
    state = _state(args, job, ranks)
    _announce(args, job, state, ranks)
    from segmentor.trainer import WEIGHTS, train

    report = train(job, state, ranks)
    score = "" if report.miou is None else f", mIoU {100 * report.miou:.1f} on {len(job.unseen.ids)} images"  # type: ignore[union-attr]
    print(f"{args.out / WEIGHTS}: {job.settings.arch} after {state.iteration} iterations{score}")
    print(f"next: python -m scripts.predict_segmentor --weights {args.out / WEIGHTS} --img_root DIR --out MASKS")
    told = [*selection.problems, *failures, *sorted(report.failures.items())]
    return console.list_failures(told) if ranks.first else EXIT_OK


def _pairs(args: argparse.Namespace, selection: "Selection") -> "tuple[list[Pair], list[tuple[str, str]]]":
    """Images and their masks, and (id, reason) of the images that have no mask to train on."""
    from dataset.voc_layout import find_image
    from segmentor.samples import Pair, usable

    found, failures = [], []
    for image_id in selection.ids:
        try:
            found.append(Pair(image_id, find_image(selection.paths.images, image_id), args.masks / f"{image_id}.png"))
        except UserError as error:
            failures.append((image_id, str(error)))
    good, others = usable(found, selection.spec.num_labels)
    return good, [*failures, *others]


def _job(args: argparse.Namespace, selection: "Selection", pairs: "list[Pair]", ranks: "Ranks") -> "Job":
    from segmentor.trainer import Job

    tenth = max(1, args.max_iters // 10)
    return Job(
        _settings(args, selection, len(pairs), ranks.count),
        pairs,
        args.out,
        _unseen(args),
        save_every=args.save_every or tenth,
        validate_every=args.val_every or tenth,
        keep=args.keep,
        readers=_readers(args, ranks),
    )


def _settings(args: argparse.Namespace, selection: "Selection", images: int, ranks: int) -> "Settings":
    from segmentor.settings import Settings

    own = {"lr": args.lr, "min_lr": args.min_lr, "weight_decay": args.weight_decay, "power": args.poly}
    own |= {"head_factor": args.head_lr, "warmup": args.warmup}
    usual = dict(BY_OPTIMIZER[args.optimizer])
    usual["warmup"] = min(usual["warmup"], args.max_iters // LONGEST_WARMUP)
    learning = {name: usual[name] if value is None else value for name, value in own.items()}
    return Settings(
        arch=args.arch,
        labels=selection.spec.label_names,
        images=images,
        max_iters=args.max_iters,
        batch=args.batch_size,
        accumulate=args.accumulate,
        ranks=ranks,
        pretrained=args.pretrained or "",
        views=_views(args),
        optimizer=args.optimizer,
        loss=args.loss,
        loss_over=args.loss_over,
        ema=args.ema,
        precision=args.precision,
        seed=args.seed,
        **learning,
    )


def _views(args: argparse.Namespace) -> "Views":
    from segmentor.augment import Views

    return Views(
        crop=args.crop,
        scales=(args.scales[0], args.scales[1]),
        resize=(args.resize[0], args.resize[1]) if args.resize else None,
        flip=not args.no_flip,
        colours=not args.no_colours,
        normalisation=args.normalisation,
    )


def _unseen(args: argparse.Namespace) -> "Unseen | None":
    if args.val_split is None:
        return None
    from dataset.lookup import select
    from segmentor.validation import Unseen

    images = args.val_img_root or args.img_root
    found = select(args.dataset, images, args.val_split, args.gt_root, args.classes, images_needed=True)
    return Unseen(found.ids, found.paths.images, found.need_masks())


def _readers(args: argparse.Namespace, ranks: "Ranks") -> int:
    if args.readers is not None:
        return max(0, args.readers)
    return 0 if ranks.device.type == "cpu" else min(8, max(1, (os.cpu_count() or 1) // ranks.count - 1))


def _state(args: argparse.Namespace, job: "Job", ranks: "Ranks") -> "State":
    """Fresh weights, or those of the last checkpoint in --out."""
    import torch

    from common.files import sweep_leftovers
    from segmentor.networks import build
    from segmentor.pretrained import start_from
    from segmentor.state import checkpoints, fresh_state, take_up
    from segmentor.trainer import WEIGHTS, forget

    asked = job.settings
    if ranks.first:
        sweep_leftovers(args.out)
        if args.overwrite:
            forget(args.out)
    ranks.wait()
    if (args.out / WEIGHTS).exists() and not checkpoints(job.folder):
        raise UserError(f"--out {args.out}: holds {WEIGHTS} without checkpoints; pass --overwrite or another --out")
    torch.manual_seed(asked.seed)
    network = build(asked.arch, len(asked.labels), asked.head)
    if asked.pretrained and not checkpoints(job.folder):
        print(f"start   {start_from(network, asked.arch, asked.pretrained)}")
    state = fresh_state(network, asked, ranks.device)
    take_up(job.folder, state, asked)
    return state


def _announce(args: argparse.Namespace, job: "Job", state: "State", ranks: "Ranks") -> None:
    """What is about to be done, before it takes long."""
    from segmentor.networks import count_parameters

    asked, seen = job.settings, f"{len(job.unseen.ids)} images" if job.unseen else "none (--val_split, --gt_root)"
    processes = f", {ranks.count} processes" if ranks.count > 1 else ""
    print(f"data    {args.dataset}: {len(job.pairs)} images with masks in {args.masks}; validation {seen}")
    print(f"network {asked.arch}, {count_parameters(state.network) / 1e6:.2f} M weights, {len(asked.labels)} labels")
    print(f"device  {ranks.device}{processes}, {asked.precision}")
    print(
        f"learns  {asked.optimizer}, rate {asked.lr:g} (head {asked.lr * asked.head_factor:g}), "
        f"warm-up {asked.warmup}, {job.deal.step} images a step, {asked.max_iters} steps"
    )
    if state.iteration:
        print(f"goes on from iteration {state.iteration} in {job.folder}")


if __name__ == "__main__":
    sys.exit(main())
