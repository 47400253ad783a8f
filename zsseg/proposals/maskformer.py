"""Masks by zsseg's own MaskFormer (scripts/train_zsseg.py, or a published checkpoint), with class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.arguments import option, positive
from common.errors import UserError
from zsseg.proposals.proposer import Photo, Propose, Proposer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.steps.regions import SoftMasks
    from zsseg.maskformer import MaskFormer

SHORT, LONGEST = 640, 2560  # sides where the file does not say


@dataclass(frozen=True)
class MaskFormerSettings:
    """Which network, the words that its queries are compared with, and the size at which it looks at photos.

    names       the groups of names of the classes
    template    the data set's own
    usual       the data set's CLIP
    identity    of the files
    """

    weights: str | None = option(
        None,
        "weights.safetensors of scripts.train_zsseg, or a published checkpoint",
        flag="--maskformer",
        type=str,
        metavar="FILE",
    )
    clip: str | None = option(
        None,
        "the CLIP it was trained with, a file or a name with OpenAI's weights; not given: that of --method zsseg, or "
        "the data set's own",
        flag="--maskformer_clip",
        type=str,
        metavar="FILE|NAME",
    )
    templates: str = option(
        "auto",
        "sentences of its queries; auto: what its file says, and `single` for a published one without learned prompts",
        flag="--maskformer_templates",
        choices=("auto", "single", "vild14", "imagenet80", "dataset"),
    )
    short: int | None = option(
        None, "short side of photos; not given: what the file says, or 640", flag="--short_side", type=positive
    )
    longest: int | None = option(
        None, "the long side at most; not given: what the file says, or 2560", flag="--long_side", type=positive
    )
    names: tuple[tuple[str, ...], ...] = ()
    template: str = "{}"
    usual: tuple[str, str | None] = ("ViT-B-16", "openai")
    identity: str = ""


def with_classes(settings: MaskFormerSettings, spec: DatasetSpec) -> MaskFormerSettings:
    """The settings for the classes of a data set, whose CLIP is taken where none is known."""
    from zsseg.names import class_names

    return replace(settings, names=class_names(spec), template=spec.template, usual=spec.clip)


def load(settings: MaskFormerSettings, device: torch.device | None) -> Propose:
    return _proposing(settings, _clip(settings, str(device or "cpu")))


def with_clip(settings: MaskFormerSettings, clip: Clip) -> Propose:
    return _proposing(settings, _clip(settings, str(clip.device)) if settings.clip else clip)


@lru_cache(maxsize=1)
def _clip(settings: MaskFormerSettings, device: str) -> Clip:
    from clip.load import load_clip

    model, tag = settings.usual
    if settings.clip is not None:
        model, tag = settings.clip, None if Path(settings.clip).exists() else "openai"
    return load_clip(model, tag, device, resnets=True)


@lru_cache(maxsize=1)
def _proposing(settings: MaskFormerSettings, clip: Clip) -> Propose:
    """Reads the network, encodes the classes, and chooses the sides of photos."""
    from zsseg.checkpoint import read_checkpoint
    from zsseg.words import query_text

    path = Path(_needed(settings))
    checkpoint = read_checkpoint(path)
    text = query_text(checkpoint, path, clip, settings.names, settings.templates, settings.template)
    about = checkpoint.about
    short, longest = (about.short, about.longest) if about else (SHORT, LONGEST)
    network = checkpoint.network.to(clip.device)
    return partial(propose, network, text, settings.short or short, settings.longest or longest)


def propose(
    network: MaskFormer,
    text: Tensor,
    short: int,
    longest: int,
    photo: Photo,
    views: Sequence[tuple[float, bool]] = ((1.0, False),),
) -> SoftMasks:
    """Soft masks of the photo at the size at which the network looks at it: those of every view, one after the other.

    views  scales of that size, and whether mirrored; the first is the photo as it is
    """
    import torch

    from pipeline.steps.regions import SoftMasks
    from zsseg.inference import find_queries, on_grid, resized

    found = [
        find_queries(network, resized(photo.rgb, round(short * scale), round(longest * scale)), text, mirrored)
        for scale, mirrored in views
    ]
    first = found[0]
    logits = torch.cat([on_grid(view, first) for view in found]).cpu().numpy()
    probabilities = torch.cat([view.probabilities for view in found]).cpu().numpy()
    return SoftMasks(first.size, logits, first.padded, probabilities, len(views))


def _needed(settings: MaskFormerSettings) -> str:
    if settings.weights is None:
        raise UserError("--maskformer is needed: weights.safetensors of scripts.train_zsseg, or a published checkpoint")
    return settings.weights


def complete(settings: MaskFormerSettings) -> MaskFormerSettings:
    from common.provenance import source_of

    files = [Path(_needed(settings)), *(path for path in [Path(settings.clip or "")] if path.is_file())]
    return replace(settings, identity=" ".join(map(source_of, files)))


def learned(settings: MaskFormerSettings) -> tuple[str, ...] | None:
    """What the file says; a published one says nothing."""
    from zsseg.checkpoint import read_about

    about = read_about(Path(_needed(settings)))
    return about.names if about else None


PROPOSER = Proposer(
    MaskFormerSettings,
    load,
    complete,
    network=True,
    with_classes=with_classes,
    learned=learned,
    with_clip=with_clip,
    views=True,
)
