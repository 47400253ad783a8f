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


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """All options but those of the data; read under the names of the fields of segmentor.settings."""
    _add_run_options(parser)
    _add_network_options(parser)
    _add_teacher_options(parser)
    _add_view_options(parser)
    _add_learning_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="mask PNGs, named like the images; can be left out with --teacher"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="where weights, checkpoints and logs go")
    add = parser.add_argument_group("validation, against --gt_root").add_argument
    add("--val_split", type=Path, metavar="FILE", help="images to score now and then; not trained on")
    add("--val_img_root", type=Path, metavar="DIR", help="where they are; not given: --img_root")
    add("--val_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    add = parser.add_argument_group("run").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--readers", type=int, metavar="N", help="processes that read; not given: 8 on a GPU, else 0")
    add("--save_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    add("--keep", type=positive, default=2, metavar="N", help="checkpoints that stay")
    add("--seed", type=int, default=0, help="of start weights, order and views")
    add("--overwrite", action="store_true", help="begin again, whatever --out holds of an earlier run")


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("network").add_argument
    add("--arch", choices=ARCHES, default="segformer-b0", help="segformer-tiny is for the toy world")
    add(
        "--head",
        choices=("linear", "text"),
        default="linear",
        help="linear: learned; text: features times the text embeddings of --clip, which stay as they are (MaskCLIP+)",
    )
    add(
        "--pretrained",
        metavar="FILE|DIR|NAME",
        help="weights to start from: of an earlier training, of transformers (nvidia/mit-b0) for SegFormer, of "
        "torchvision (ResNet101_Weights.IMAGENET1K_V2) for DeepLab; not given: random. CLIP has options of its own",
    )
    add("--precision", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network")


def _add_teacher_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "labels by CLIP (MaskCLIP+)", "The labels of hidden pixels are found while the network learns, crop by crop."
    ).add_argument
    add(
        "--teacher",
        choices=TEACHERS,
        help="a frozen MaskCLIP as its official code has it, or as its pip package (their methods in generate_cams.py)",
    )
    add(
        "--unlabelled",
        metavar="all|unseen|NAME,NAME",
        help="classes whose pixels in --masks are hidden, to be labelled by the teacher, and later the network, as one "
        "of these classes; background and 255 stay. Not given: unseen, those of the data set's zero-shot split. "
        "Without --masks every pixel is hidden, the background too",
    )
    add(
        "--guided",
        type=positive,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="iterations in which the teacher labels, from 1; not given: all before --self_train_from",
    )
    add(
        "--self_train_from",
        type=positive,
        default=0,
        dest="own_from",
        metavar="N",
        help="the iteration from which the network labels the hidden pixels itself; not given: never",
    )
    add(
        "--teacher_confidence",
        type=share,
        default=0.0,
        dest="confidence",
        metavar="X",
        help="where the teacher's highest probability is lower, a hidden pixel stays without label; 0: nowhere",
    )
    add("--teacher_padding", action="store_true", dest="padding", help="it sees the padding of crops, as published")
    add("--key_smoothing", type=share, default=0.0, metavar="X", help="0: off; 1.0 where published")
    add("--smoothing_norm", choices=("position", "channel"), default="position", help="as in generate_cams.py")
    add("--prompt_denoising", type=share, default=0.0, dest="denoising", metavar="X", help="0: off; 0.5: published")
    add = parser.add_argument_group("CLIP, of --teacher and --head text").add_argument
    add(
        "--clip",
        metavar="FILE|NAME",
        help="what is --model in generate_cams.py: a weight file or an open_clip name; not given: the toy world's own, "
        "or ViT-B-16 openai",
    )
    add("--clip_pretrained", metavar="TAG|FILE", help="what is --pretrained there; with a name only")
    add("--activation", choices=("auto", "quick_gelu", "gelu"), default="auto", help="of its MLPs")
    add("--templates", choices=("auto", "dataset", "maskclip85"), default="auto", help="sentences it is asked with")


def _add_view_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("views of an image").add_argument
    add("--crop", type=positive, default=512, metavar="N", help="side of the square that is cut out")
    add("--scales", type=_factor, nargs=2, default=[0.5, 2.0], metavar="X", help="least and greatest random size")
    add("--resize", type=positive, nargs=2, metavar="N", help="fit into this box (long and short side) before that")
    add("--no_flip", action="store_false", dest="flip", help="never mirror")
    add("--no_colours", action="store_false", dest="colours", help="never vary brightness, contrast, saturation, hue")
    add("--normalisation", choices=("imagenet", "clip"), default="imagenet", help="mean and deviation of the input")


def _add_learning_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("learning").add_argument
    add("--max_iters", type=positive, default=20000, metavar="N", help="changes of the weights")
    add("--batch_size", type=positive, default=8, dest="batch", metavar="N", help="images that go together")
    add("--accumulate", type=positive, default=1, metavar="N", help="batches before the weights change")
    add("--optimizer", choices=tuple(BY_OPTIMIZER), default="adamw", help="adamw: beta .9, .999; sgd: momentum .9")
    add("--lr", type=not_negative, metavar="X", help="not given: 6e-5 with adamw, 0.01 with sgd")
    add("--min_lr", type=not_negative, metavar="X", help="at the end; not given: 0, 1e-4 with sgd")
    add("--weight_decay", type=not_negative, metavar="X", help="not given: 0.004, 5e-4 with sgd")
    add("--warmup", type=int, metavar="N", help="iterations; not given: 1500, 0 with sgd, at most a tenth of the run")
    add("--poly", type=not_negative, dest="power", metavar="X", help="of the schedule; not given: 1, 0.9 with sgd")
    add(
        "--head_lr",
        type=not_negative,
        dest="head_factor",
        metavar="X",
        help="times --lr for decoder and head; not given: 10, 1 with sgd",
    )
    add("--loss", choices=("ce", "balanced"), default="ce", help="balanced: background and classes weigh one half each")
    add("--loss_over", choices=("valid", "all"), default="valid", help="all: ignored pixels count too, as in mmseg")
    add("--ema", type=share, default=0.0, metavar="X", help="decay of a running mean of the weights, 0.999")


def _factor(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 20:
        raise argparse.ArgumentTypeError(f"{text}: expected a factor from 0.05 to 20")
    return value


# --- what goes together ---------------------------------------------------------------------------


def check(args: argparse.Namespace) -> None:
    """Fill in what was not given; raise UserError for numbers and options that do not go together."""
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: expected 0 or more")
    if args.crop < 32:
        raise UserError(f"--crop {args.crop}: expected at least 32 pixels")
    if args.scales[0] > args.scales[1]:
        raise UserError(f"--scales {args.scales[0]:g} {args.scales[1]:g}: expected the smaller one first")
    if args.ema >= 1:
        raise UserError(f"--ema {args.ema:g}: expected a decay below 1, such as 0.999")
    if args.arch.startswith("deeplab") and args.batch < 2:
        raise UserError(f"--batch_size 1: {args.arch} needs at least 2; its batch norm cannot work with one image")
    if args.gt_root is not None and args.val_split is None:
        raise UserError("--gt_root: only with --val_split FILE, the images to validate on")
    _check_labels(args)
    _check_times(args)
    usual = dict(BY_OPTIMIZER[args.optimizer])
    usual["warmup"] = min(usual["warmup"], args.max_iters // LONGEST_WARMUP)
    tenth = max(1, args.max_iters // 10)
    for name, value in {**usual, "save_every": tenth, "val_every": tenth}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.unlabelled is None and args.masks is not None and (args.teacher or args.own_from):
        args.unlabelled = "unseen"


def _check_labels(args: argparse.Namespace) -> None:
    """Whether there is somebody to label, and something."""
    if args.masks is None and not args.teacher:
        raise UserError("--masks is needed: a folder of mask PNGs; only --teacher maskclip can do without")
    if args.masks is None and args.unlabelled not in (None, "all"):
        raise UserError(f"--unlabelled {args.unlabelled}: goes with --masks; without masks every pixel is hidden")
    if not args.teacher:
        given = {
            "--guided": args.guided,
            "--teacher_confidence": args.confidence,
            "--teacher_padding": args.padding,
            "--key_smoothing": args.key_smoothing,
            "--prompt_denoising": args.denoising,
        }
        for flag in (flag for flag, value in given.items() if value):
            raise UserError(f"{flag}: goes with --teacher")
    elif args.teacher != "maskclip" and (args.key_smoothing or args.denoising):
        raise UserError(f"--key_smoothing and --prompt_denoising: go with --teacher maskclip, not {args.teacher}")
    if (args.clip or args.clip_pretrained) and not needs_clip(args):
        raise UserError("--clip: goes with --teacher or --head text")
    if args.clip_pretrained and not args.clip:
        raise UserError(f"--clip_pretrained {args.clip_pretrained}: goes with --clip NAME, such as ViT-B-16")


def _check_times(args: argparse.Namespace) -> None:
    """Fill in --guided; whether teacher and network label in iterations that there are, and not in the same ones."""
    own = args.own_from
    if own and own > args.max_iters:
        raise UserError(f"--self_train_from {own}: after the last of {args.max_iters} iterations (--max_iters)")
    if not args.teacher:
        args.guided = (0, 0)
        return
    first, last = args.guided = tuple(args.guided or (1, (own or args.max_iters + 1) - 1))
    if first > last:
        raise UserError(f"--guided {first} {last}: nothing is left for the teacher; expected the smaller one first")
    if first > args.max_iters:
        raise UserError(f"--guided {first} {last}: after the last of {args.max_iters} iterations (--max_iters)")
    if own and last >= own:
        raise UserError(f"--guided {first} {last} --self_train_from {own}: only one of them labels at a time")


def needs_clip(args: argparse.Namespace) -> bool:
    """Whether a CLIP takes part."""
    return bool(args.teacher) or args.head == "text"
