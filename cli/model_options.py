"""Command-line options of the model, the CAM method, TagCLIP and the CRF.

Kept free of torch so that `--help` is quick.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cli.options import Pack, Parser, add_settings, settings_from
from common.arguments import count, positive, share
from common.limits import MAX_PIXELS
from dataset.spec import BY_CLIP
from pipeline.methods.method import CamSettings, SharedSettings
from pipeline.methods.table import METHODS
from pipeline.methods.tagclip import TagSettings
from pipeline.stages.refine import NOTHING, PROMPTS, SAM, STEPS, PromptSettings, VoteSettings
from zsseg.proposals.table import PROPOSERS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --pretrained, --activation, --prompts, --device."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="weight file or open_clip name; not given: toyworld's own, or ViT-B-16 openai")
    group.add_argument("--pretrained", help="with an open_clip name: a tag such as openai, or a weight file")
    group.add_argument(
        "--activation",
        choices=("auto", "quick_gelu", "gelu"),
        default="auto",
        help="of the MLPs; auto: what the weights or their name say, with a warning where nothing does",
    )
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="learned prompts (of scripts.learn_prompts, or a checkpoint of zsseg.baseline) in place of the templates "
        "that names of classes and background words are put into",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def add_method_options(parser: Parser, defaults: Mapping[str, Any] | None = None) -> None:
    """--method, the settings that all methods share, and those of the method that is asked for.

    defaults  by name of a shared setting, in place of its own
    """
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method",
        choices=METHODS,
        default="clip-es",
        help="how the maps are made; `--method NAME --help` shows its own options. maskclip and maskclip-v also know "
        "ResNets, and score all classes with --labels all",
    )
    add_settings(parser, "every method", SharedSettings, defaults)
    for name, method in METHODS.items():
        parser.packs.append(Pack.of("method", name, method.settings))
        for way, proposer in method.regions.proposers.items() if method.regions else ():
            parser.packs.append(_proposal_pack(name, way, proposer.settings))


def _proposal_pack(method: str, way: str, settings: type) -> Pack:
    """The options of one way to propose regions, of a method that takes them."""

    def applies(asked: argparse.Namespace) -> bool:
        return asked.method == method and asked.proposals == way

    return Pack(f"regions: {way}", settings, f"--method {method} --proposals {way}", applies)


def add_tag_options(parser: Parser, without_labels: bool = False) -> None:
    """TagCLIP's options, which apply with `--labels clip`.

    without_labels  they also apply where --labels is not given
    """
    goes_with = "--labels clip" + (", or without --labels" if without_labels else "")

    def applies(asked: argparse.Namespace) -> bool:
        all_by_itself = asked.method in METHODS and METHODS[asked.method].unlabelled
        return without_labels and not all_by_itself if asked.labels is None else asked.labels == [BY_CLIP]

    parser.packs.append(Pack("labels by CLIP (TagCLIP)", TagSettings, goes_with, applies))


def cam_settings(args: argparse.Namespace) -> CamSettings:
    """What `add_method_options` read."""
    method = METHODS[args.method]
    options = settings_from(args, method.settings)
    if method.regions is not None:
        options = replace(options, proposer=settings_from(args, method.regions.proposer(options).settings))
    return settings_from(args, CamSettings, method=args.method, options=options)


def tag_settings(args: argparse.Namespace) -> TagSettings:
    """What `add_tag_options` read."""
    return settings_from(args, TagSettings)


def add_image_run_options(parser: argparse.ArgumentParser, workers: int, workers_help: str) -> None:
    """--batch_size, --num_workers, --readers, --overwrite."""
    run = parser.add_argument_group("run")
    run.add_argument(
        "--batch_size", type=positive, help="images of one patch grid that go together; not given: 16 on a GPU, else 1"
    )
    run.add_argument("--num_workers", type=positive, default=workers, help=workers_help)
    run.add_argument(
        "--readers", type=count, help="processes a worker that read images; 0: threads; not given: 8 on a GPU, else 0"
    )
    run.add_argument("--overwrite", action="store_true", help="make files again that are there already")


def refinement(text: str) -> tuple[str, ...]:
    """The argparse type of `--refine`: steps in order, each once at most; () for none."""
    steps = tuple(step.strip() for step in text.split(","))
    if steps == (NOTHING,):
        return ()
    if len(set(steps)) < len(steps) or not set(steps) <= set(STEPS):
        raise argparse.ArgumentTypeError(
            f"{text}: expected {', '.join(STEPS)}, or several of them in an order such as crf,sam, each once, or none"
        )
    return steps


def _add_vote_packs(parser: Parser) -> None:
    """The options of `--refine sam`, and of each way to make the masks that vote."""

    def applies(asked: argparse.Namespace, way: str = "", step: str = SAM) -> bool:
        typed = asked.refine.split(",") if isinstance(asked.refine, str) else asked.refine or ()
        return step in [one.strip() for one in typed] and way in ("", asked.votes)

    parser.packs.append(Pack("votes of masks", VoteSettings, "--refine crf,sam", applies))
    parser.packs.append(Pack("prompts", PromptSettings, "--refine crf,prompts", partial(applies, step=PROMPTS)))
    for way, proposer in PROPOSERS.items():
        title, goes_with = f"masks that vote: {way}", f"--refine crf,sam --votes {way}"
        parser.packs.append(Pack(title, proposer.settings, goes_with, partial(applies, way=way)))


def add_crf_options(parser: Parser) -> None:
    """--refine and the options of its steps: --cam_type, --crf_image, --crf, --confidence, --max_pixels."""
    group = parser.add_argument_group("refinement")
    group.add_argument(
        "--refine",
        type=refinement,
        default=("crf",),
        metavar="STEPS",
        help="what sharpens the maps, in this order: crf (DenseCRF), pamr (moves scores to pixels of like colour), "
        "sam (masks of segment-anything, or others, vote; see --refine crf,sam --help), prompts (segment-anything is "
        "asked for each part of each class), or none; not given: crf",
    )
    _add_vote_packs(parser)
    group.add_argument(
        "--cam_type",
        choices=("attn_highres", "highres"),
        default="attn_highres",
        help="the maps after (attn_highres) or before the affinity",
    )
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
    group.add_argument(
        "--confidence",
        type=share,
        metavar="X",
        help="below this probability a pixel becomes 255; not given: 0.95, or 0 without CRF, whose scores are no "
        "probabilities",
    )
    group.add_argument(
        "--max_pixels",
        type=positive,
        default=MAX_PIXELS,
        metavar="N",
        help="larger images are shrunk to this many pixels for the CRF, which takes some 0.2 GB a million; their masks "
        "have the image's size all the same (nearest neighbour). Where more than 22 labels compete, to as many times "
        "fewer as there are more labels, so that memory does not grow with them",
    )


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    """--pseudo_mask_save_path, --palette."""
    parser.add_argument(
        "--pseudo_mask_save_path", type=Path, metavar="DIR", help="where the masks go; not given: output/DATASET/masks"
    )
    parser.add_argument("--palette", action="store_true", help="write coloured masks of mode P, for people")
