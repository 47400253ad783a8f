"""Command-line options of scripts/train_segmentor.py, and what goes together."""

import argparse
from pathlib import Path

from cli.options import Parser, add_settings
from cli.training_runs import add_run_options, check_run, fill_in
from common.errors import UserError
from segmentor.settings import Settings, Teaching, Views


def add_training_options(parser: Parser) -> None:
    """All options but those of the data."""
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="mask PNGs, named like the images; can be left out with --teacher"
    )
    add_run_options(parser)
    add_settings(parser, "network and learning", Settings)
    add_settings(parser, "views of an image", Views)
    add_settings(parser, "labels by CLIP (MaskCLIP+), found for hidden pixels while the network learns", Teaching)
    add = parser.add_argument_group("what CLIP labels, and which one, for --teacher and --head text").add_argument
    add(
        "--unlabelled",
        metavar="all|unseen|NAME,NAME",
        help="classes whose pixels in --masks are hidden, to be labelled by the teacher, and later the network, as one "
        "of these classes; background and 255 stay. Not given: unseen, those of the data set's zero-shot split. "
        "Without --masks every pixel is hidden, the background too",
    )
    add(
        "--clip",
        metavar="FILE|NAME",
        help="what is --model in generate_cams.py: a weight file, a folder or an open_clip name; not given: the toy "
        "world's own, or ViT-B-16 openai",
    )
    add("--clip_pretrained", metavar="TAG|FILE", help="what is --pretrained there; with a name only")
    add("--activation", choices=("auto", "quick_gelu", "gelu"), default="auto", help="of its MLPs")
    add("--templates", choices=("auto", "dataset", "maskclip85"), default="auto", help="sentences it is asked with")
    add("--prompts", type=Path, metavar="FILE", help="learned prompts in their place (scripts.learn_prompts)")


def check(args: argparse.Namespace) -> None:
    """Fill in what was not given; raise UserError for numbers and options that do not go together."""
    if args.crop < 32:
        raise UserError(f"--crop {args.crop}: expected at least 32 pixels")
    if args.scales[0] > args.scales[1]:
        raise UserError(f"--scales {args.scales[0]:g} {args.scales[1]:g}: expected the smaller one first")
    if args.ema >= 1:
        raise UserError(f"--ema {args.ema:g}: expected a decay below 1, such as 0.999")
    if args.arch.startswith("deeplab") and args.batch_size < 2:
        raise UserError(f"--batch_size 1: {args.arch} needs at least 2; its batch norm cannot work with one image")
    check_run(args)
    if (args.clip or args.clip_pretrained or args.prompts) and not needs_clip(args):
        raise UserError(f"{'--prompts' if args.prompts else '--clip'}: goes with --teacher or --head text")
    if args.prompts and args.templates != "auto":
        raise UserError(f"--templates {args.templates}: learned prompts stand in their place; leave one of them out")
    if args.clip_pretrained and not args.clip:
        raise UserError(f"--clip_pretrained {args.clip_pretrained}: goes with --clip NAME, such as ViT-B-16")
    if args.masks is None and not args.teacher:
        raise UserError("--masks is needed: a folder of mask PNGs; only --teacher maskclip can do without")
    if args.masks is None and args.unlabelled not in (None, "all"):
        raise UserError(f"--unlabelled {args.unlabelled}: goes with --masks; without masks every pixel is hidden")
    start = args.self_train_from
    if start > args.max_iters:
        raise UserError(f"--self_train_from {start}: after the last of {args.max_iters} iterations (--max_iters)")
    if args.teacher:
        _check_teacher(args)
    else:
        of_teacher = ("confidence", "padding", "refined", "pamr")
        for name in (*(f"teacher_{name}" for name in of_teacher), "key_smoothing", "prompt_denoising"):
            if getattr(args, name):
                raise UserError(f"--{name}: goes with --teacher")
        if any(args.guided):
            raise UserError("--guided: goes with --teacher")
    fill_in(args, args.max_iters)
    if args.unlabelled is None and args.masks is not None and (args.teacher or start):
        args.unlabelled = "unseen"


def _check_teacher(args: argparse.Namespace) -> None:
    """Fill in --guided; raise UserError where its iterations do not exist or are those of --self_train_from."""
    if args.teacher != "maskclip" and (args.key_smoothing or args.prompt_denoising):
        raise UserError(f"--key_smoothing and --prompt_denoising: go with --teacher maskclip, not {args.teacher}")
    start = args.self_train_from
    if not any(args.guided):
        args.guided = [1, (start or args.max_iters + 1) - 1]
    first, last = args.guided
    if first > last:
        raise UserError(f"--guided {first} {last}: nothing is left for the teacher; expected the smaller one first")
    if first > args.max_iters:
        raise UserError(f"--guided {first} {last}: after the last of {args.max_iters} iterations (--max_iters)")
    if start and last >= start:
        raise UserError(f"--guided {first} {last} --self_train_from {start}: only one of them labels at a time")


def needs_clip(args: argparse.Namespace) -> bool:
    """Whether a CLIP takes part."""
    return bool(args.teacher) or args.head == "text"
