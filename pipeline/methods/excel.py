"""ExCEL's static maps (Yang et al., CVPR 2025): patches that look at their like against texts, without gradients.

Without its attributes by a language model: a class is its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.arguments import count, option
from pipeline.methods.clip_es import finish, words
from pipeline.methods.method import CamSettings, LateSteps, Method, TextSet

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import Seen

AFFINITY_BLOCKS = 6


@dataclass(frozen=True)
class ExcelSettings:
    """ExCEL's own settings, with the published values; their help says what they are."""

    box_threshold: float = option(0.79, "share of a map's maximum that enters a box")
    side: int = option(320, "images become squares of this side; 0: their own size", type=count, metavar="PIXELS")


def look(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[Seen]:
    """Of each image the transition matrix (N, N) and maps (k_i, h, w) in [0, 1].

    All classes and background words compete.
    """
    import torch
    from torch.nn import functional as F

    from clip.vision import class_token_features
    from pipeline.steps.affinity import mean_attention, transition_matrix
    from pipeline.steps.dense_attention import run_blocks, to_features
    from pipeline.steps.dense_features import last_block
    from pipeline.steps.trunk import block_runner
    from pipeline.steps.two_paths import surgery_maps, surgery_output

    run = block_runner(settings.compile)
    tokens = run_blocks(clip.visual, images, "bilinear", AFFINITY_BLOCKS, settings.precision, run)
    output, attention = last_block(clip.visual, tokens.last_input)
    features = F.normalize(to_features(clip.visual, surgery_output(clip.visual, tokens)), dim=-1)
    of_image = F.normalize(class_token_features(clip.visual, output), dim=-1)
    found = surgery_maps(features, of_image, torch.cat([text.foreground, text.background]), tokens.grid)
    cams = [own[list(present)] for own, present in zip(found, labels)]
    return list(zip(transition_matrix(mean_attention([*tokens.attention, attention])), cams))


def complete(clip: Clip, spec: DatasetSpec, settings: ExcelSettings) -> ExcelSettings:
    return settings


def preparation(clip: Clip, settings: ExcelSettings | None) -> Preparation:
    """A square, or the image stretched to whole patches."""
    from clip.image import AS_CLIP_ES, Preparation

    side = (settings or ExcelSettings()).side
    return Preparation("square", (side,)) if side else AS_CLIP_ES


LATE = LateSteps(look, finish, ("box_threshold",))
METHOD = Method(LATE.maps, ExcelSettings, complete, words, preparation, kind=lambda settings: "cam", late=LATE)
