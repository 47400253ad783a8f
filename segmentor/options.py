"""Command-line options of scripts/train_segmentor.py, and what goes together."""

import argparse
from pathlib import Path
from typing import Any

from common.arguments import not_negative, positive, share
from common.errors import UserError

ARCHES = (
    *(f"segformer-{size}" for size in ("b0", "b1", "b2", "b3", "b4", "b5", "tiny")),
    *(f"deeplabv3-{backbone}" for backbone in ("resnet50", "resnet101", "mobilenet")),
)
TEACHERS = ("maskclip", "maskclip-v")
BY_OPTIMIZER: dict[str, dict[str, Any]] = {  # what is not given: the values of the published trainings
    "adamw": {"lr": 6e-5, "min_lr": 0.0, "weight_decay": 0.004, "power": 1.0, "head_factor": 10.0, "warmup": 1500},
    "sgd": {"lr": 0.01, "min_lr": 1e-4, "weight_decay": 5e-4, "power": 0.9, "head_factor": 1.0, "warmup": 0},
}
LONGEST_WARMUP = 10  # not given: at most this part of the iterations


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """--masks, --out, and what else belongs to no group of its own: validation and the run."""
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="mask PNGs, named like the images; can be left out with --teacher"
    )
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


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """--arch, --head, --pretrained, --precision."""
    group = parser.add_argument_group("network")
    group.add_argument("--arch", choices=ARCHES, default="segformer-b0", help="segformer-tiny is for the toy world")
    group.add_argument(
        "--head",
        choices=("linear", "text"),
        default="linear",
        help="linear: learned; text: features times the text embeddings of --clip, which stay as they are (MaskCLIP+)",
    )
    group.add_argument(
        "--pretrained",
        metavar="FILE|DIR|NAME",
        help="weights to start from: of an earlier training, of transformers (nvidia/mit-b0) for SegFormer, of "
        "torchvision (ResNet101_Weights.IMAGENET1K_V2) for DeepLab; not given: random. CLIP has options of its own",
    )
    group.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network"
    )


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """--teacher, who is taught what and when, and the CLIP of teacher and text head."""
    group = parser.add_argument_group(
        "labels by CLIP (MaskCLIP+)", "The labels of hidden pixels are found while the network learns, crop by crop."
    )
    group.add_argument(
        "--teacher",
        choices=TEACHERS,
        help="a frozen MaskCLIP as its official code has it, or as its pip package (their methods in generate_cams.py)",
    )
    group.add_argument(
        "--unlabelled",
        metavar="all|unseen|NAME,NAME",
        help="classes whose pixels in --masks are hidden, to be labelled by the teacher, and later the network, as one "
        "of these classes; background and 255 stay. Not given: unseen, those of the data set's zero-shot split. "
        "Without --masks every pixel is hidden, the background too",
    )
    group.add_argument(
        "--guided",
        type=positive,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="iterations in which the teacher labels, from 1; not given: all before --self_train_from",
    )
    group.add_argument(
        "--self_train_from",
        type=positive,
        metavar="N",
        help="the iteration from which the network labels the hidden pixels itself; not given: never",
    )
    group.add_argument(
        "--teacher_confidence",
        type=share,
        default=0.0,
        metavar="X",
        help="where the teacher's highest probability is lower, a hidden pixel stays without label; 0: nowhere",
    )
    group.add_argument(
        "--teacher_padding", action="store_true", help="it sees the padding of crops too, as where published"
    )
    group.add_argument("--key_smoothing", type=share, default=0.0, metavar="X", help="0: off; 1.0 where published")
    group.add_argument(
        "--smoothing_norm", choices=("position", "channel"), default="position", help="as in generate_cams.py"
    )
    group.add_argument("--prompt_denoising", type=share, default=0.0, metavar="X", help="0: off; 0.5 where published")
    _add_clip_options(parser)


def _add_clip_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("CLIP, of --teacher and --head text")
    group.add_argument(
        "--clip",
        metavar="FILE|NAME",
        help="what is --model in generate_cams.py: a weight file or an open_clip name; not given: the toy world's own, "
        "or ViT-B-16 openai",
    )
    group.add_argument("--clip_pretrained", metavar="TAG|FILE", help="what is --pretrained there; with a name only")
    group.add_argument("--activation", choices=("auto", "quick_gelu", "gelu"), default="auto", help="of its MLPs")
    group.add_argument(
        "--templates", choices=("auto", "dataset", "maskclip85"), default="auto", help="sentences it is asked with"
    )


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """How images are varied."""
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


def add_learning_options(parser: argparse.ArgumentParser) -> None:
    """Optimizer, schedule and loss."""
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


# --- what goes together ---------------------------------------------------------------------------


def check(args: argparse.Namespace) -> None:
    """Raise UserError for numbers and options that do not go together."""
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
    _check_labels(args)
    _check_times(args)


def _check_labels(args: argparse.Namespace) -> None:
    """Whether there is somebody to label, and something."""
    if args.masks is None and not args.teacher:
        raise UserError("--masks is needed: a folder of mask PNGs; only --teacher maskclip can do without")
    if args.masks is None and args.unlabelled not in (None, "all"):
        raise UserError(f"--unlabelled {args.unlabelled}: goes with --masks; without masks every pixel is hidden")
    if not args.teacher:
        flags = ("--guided", "--teacher_confidence", "--teacher_padding", "--key_smoothing", "--prompt_denoising")
        for flag in (flag for flag in flags if getattr(args, flag.removeprefix("--"))):
            raise UserError(f"{flag}: goes with --teacher")
    elif args.teacher != "maskclip" and (args.key_smoothing or args.prompt_denoising):
        raise UserError(f"--key_smoothing and --prompt_denoising: go with --teacher maskclip, not {args.teacher}")
    if (args.clip or args.clip_pretrained) and not needs_clip(args):
        raise UserError("--clip: goes with --teacher or --head text")
    if args.clip_pretrained and not args.clip:
        raise UserError(f"--clip_pretrained {args.clip_pretrained}: goes with --clip NAME, such as ViT-B-16")


def _check_times(args: argparse.Namespace) -> None:
    """Whether teacher and network label in iterations that there are, and not in the same ones."""
    own = args.self_train_from
    if own and own > args.max_iters:
        raise UserError(f"--self_train_from {own}: after the last of {args.max_iters} iterations (--max_iters)")
    if not args.teacher:
        return
    first, last = guided(args)
    if first > last:
        raise UserError(f"--guided {first} {last}: nothing is left for the teacher; expected the smaller one first")
    if first > args.max_iters:
        raise UserError(f"--guided {first} {last}: after the last of {args.max_iters} iterations (--max_iters)")
    if own and last >= own:
        raise UserError(f"--guided {first} {last} --self_train_from {own}: only one of them labels at a time")


def guided(args: argparse.Namespace) -> tuple[int, int]:
    """The first and the last iteration in which the teacher labels, from 1; (0, 0) without a teacher."""
    if not args.teacher:
        return 0, 0
    first, last = args.guided or (1, (args.self_train_from or args.max_iters + 1) - 1)
    return first, last


def needs_clip(args: argparse.Namespace) -> bool:
    """Whether a CLIP takes part."""
    return bool(args.teacher) or args.head == "text"


def unlabelled(args: argparse.Namespace) -> str | None:
    """--unlabelled, or what it is when not given: unseen where somebody finds labels, else None."""
    if args.unlabelled is None and args.masks is not None and (args.teacher or args.self_train_from):
        return "unseen"
    return args.unlabelled
