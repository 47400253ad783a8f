"""MaskCLIP as its pip package has it: (value + block output) projected, of features that are not of unit length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.arguments import option, positive
from pipeline.methods.maskclip import TEMPLATES, map_functions, words
from pipeline.methods.method import CamSettings, Method

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.steps.dense_features import Patches


@dataclass(frozen=True)
class MaskClipVSettings:
    """The variant's own settings; their help says what they are."""

    frame: tuple[int, ...] | None = option(
        None,
        "side of the squares that images are resized to, whatever their aspect; not given: the model's",
        type=positive,
        many=True,
        metavar="SIDE",
    )
    templates: str = TEMPLATES


def patches(clip: Clip, images: Tensor, settings: CamSettings, attention_blocks: int) -> Patches:
    """Features of the patches of a batch (B, 3, h*p, w*p), with the attention of the last `attention_blocks` blocks."""
    from clip.resnet import is_resnet
    from pipeline.steps import dense_features as dense
    from pipeline.steps.trunk import run_trunk

    if is_resnet(clip.visual):
        cells, grid = dense.resnet_cells(clip.visual, images, settings.precision)
        return dense.Patches(dense.value_features_resnet(clip.visual, cells, grid), None, (), grid)
    trunk = run_trunk(clip.visual, images, "bicubic", attention_blocks, settings.precision, settings.compile)
    last_input = trunk.last_input.float()
    last_output, attention = dense.last_block(clip.visual, last_input)
    features = dense.value_features(clip.visual, last_input, last_output)
    return dense.Patches(features, None, (*trunk.attention, attention) if attention_blocks else (), trunk.grid)


def complete(clip: Clip, spec: DatasetSpec, settings: MaskClipVSettings) -> MaskClipVSettings:
    """Raises UserError for a frame of more than one side."""
    from clip.templates import choose_templates
    from common.errors import UserError

    if settings.frame is not None and len(settings.frame) != 1:
        raise UserError("--frame with --method maskclip-v: expected one side")
    return replace(settings, templates=choose_templates(clip, settings.templates))


def preparation(clip: Clip, settings: MaskClipVSettings | None) -> Preparation:
    """Squares, with CLIP's own normalisation."""
    from clip.image import Preparation

    frame = settings.frame if settings else None
    return Preparation("square", frame or (int(clip.visual.image_size),))


maps, scores = map_functions(patches)
METHOD = Method(
    maps,
    MaskClipVSettings,
    complete,
    words,
    preparation,
    kind=lambda settings: "logit",
    scores=scores,
    resnets=True,
)
