"""Command-line options of the model, the CAM method, TagCLIP and the CRF.

Kept free of torch so that `--help` is quick.
"""

import argparse
from typing import Any

from cli.options import positive, share
from common.limits import MAX_PIXELS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --pretrained, --activation, --device."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="weight file or open_clip name; not given: toyworld's own, or ViT-B-16 openai")
    group.add_argument("--pretrained", help="with an open_clip name: a tag such as openai, or a weight file")
    group.add_argument("--activation", choices=("auto", "quick_gelu", "gelu"), default="auto", help="of the MLPs")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """--method, --box_threshold, --scales, --flip, --precision, --compile, and MaskCLIP's."""
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method",
        default="clip-es",
        help="how the maps are made: clip-es, maskclip (as its official code has it) or maskclip-v (as its pip "
        "package); the last two also know ResNets, and score all classes with --labels all",
    )
    group.add_argument(
        "--box_threshold", type=share, help="share of a CAM's maximum that enters a box; not given: the data set's"
    )
    group.add_argument("--scales", type=scale, nargs="+", default=[1.0], help="test-time scales; 1.0 is always used")
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")
    group.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of all blocks but the last; the others are for GPUs",
    )
    group.add_argument("--compile", action="store_true", help="torch.compile these blocks; pays on long runs on a GPU")
    add_maskclip_options(parser)


def add_maskclip_options(parser: argparse.ArgumentParser) -> None:
    """--frame, --key_smoothing, --smoothing_norm, --prompt_denoising (pipeline/methods/maskclip.py)."""
    group = parser.add_argument_group("MaskCLIP")
    group.add_argument(
        "--frame",
        type=count,
        nargs="+",
        metavar="SIDE",
        help="maskclip: LONG SHORT sides that images are scaled to just fit into, 0 for their own size (not given: the "
        "data set's, 2048 512); maskclip-v: one side (not given: the model's)",
    )
    group.add_argument("--key_smoothing", type=share, default=0.0, metavar="X", help="0: off; 1.0 where published")
    group.add_argument(
        "--smoothing_norm",
        choices=("position", "channel"),
        default="position",
        help="keys are normalised over the positions, as in the official code, or each by itself, as in the paper",
    )
    group.add_argument("--prompt_denoising", type=share, default=0.0, metavar="X", help="0: off; 0.5 where published")


def maskclip_values(args: argparse.Namespace) -> dict[str, Any]:
    """What was read for MaskCLIP, by the field names of MaskClipSettings; frame None: not given."""
    return {
        "key_smoothing": args.key_smoothing,
        "smoothing_norm": args.smoothing_norm,
        "denoising": args.prompt_denoising,
        "frame": None if args.frame is None else tuple(side for side in args.frame if side),
        "templates": args.templates,
    }


def add_crf_options(parser: argparse.ArgumentParser) -> None:
    """--crf_image, --crf, --confidence, --max_pixels."""
    group = parser.add_argument_group("CRF")
    group.add_argument(
        "--crf_image",
        choices=("rgb", "reference"),
        default="rgb",
        help="the plain image, or the reference's mean-subtracted, wrapped BGR one (the paper's recipe)",
    )
    group.add_argument(
        "--crf",
        choices=("numba", "torch", "pydensecrf"),
        help="which DenseCRF; same labels; not given: torch on a GPU, else numba",
    )
    group.add_argument("--confidence", type=share, default=0.95, help="below this probability a pixel becomes 255")
    group.add_argument(
        "--max_pixels",
        type=positive,
        default=MAX_PIXELS,
        metavar="N",
        help="larger images are shrunk to this many pixels for the CRF, which takes some 0.2 GB a million; their masks "
        "have the image's size all the same (nearest neighbour)",
    )


def add_tag_options(parser: argparse.ArgumentParser) -> None:
    """TagCLIP's thresholds with the published values (pipeline/methods/tagclip.py), and its templates."""
    group = parser.add_argument_group("labels by CLIP (TagCLIP)")
    group.add_argument(
        "--templates",
        choices=("auto", "dataset", "maskclip85"),
        default="auto",
        help="sentences for tagging and MaskCLIP: the 85 published ones, or the data set's own; "
        "auto: the 85, unless the model never saw their words (toyworld)",
    )
    group.add_argument(
        "--tag_votes", type=int, metavar="N", help="blocks that must agree on an affinity; not given: 4 of every 12"
    )
    group.add_argument(
        "--tag_blocks",
        type=int,
        nargs="+",
        metavar="I",
        help="0-based blocks whose attention is averaged; not given: the three before the last (8 9 10 of 12)",
    )
    shares = (
        (
            "--tag_candidates",
            0.5,
            "share of the range of patch scores above which a class is looked at again in a crop",
        ),
        ("--tag_region", 0.5, "level of a class's normalised scores above which patches make its crop"),
        ("--tag_crop_weight", 0.5, "weight of that second look; 0: none"),
        ("--tag_threshold", 0.5, "share of the range of an image's scores above which a class is a label"),
    )
    for flag, default, text in shares:
        group.add_argument(flag, type=share, default=default, metavar="X", help=text)


def tag_values(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_tag_options` read, by the field names of pipeline.methods.tagclip.TagSettings."""
    return {
        "votes": args.tag_votes,
        "blocks": tuple(args.tag_blocks) if args.tag_blocks else None,
        "candidate_share": args.tag_candidates,
        "region_level": args.tag_region,
        "crop_weight": args.tag_crop_weight,
        "label_share": args.tag_threshold,
    }


def count(text: str) -> int:
    """argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return value


def scale(text: str) -> float:
    """argparse type: a factor above 0, at most 8."""
    value = float(text)
    if not 0 < value <= 8:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number of at most 8")
    return value
