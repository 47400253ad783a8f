"""SCLIP (Wang et al., ECCV 2024): every patch of the last block looks at patches with similar queries or keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.methods.windowed import Published, Windows, WindowSettings, method_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip

PUBLISHED = {
    "": Published(),
    "voc12": Published(logit_scale=65, prob_threshold=0.1, area_threshold=0.1),
    "coco14": Published(logit_scale=50, prob_threshold=0.1),
    "cocoobject": Published(logit_scale=50, prob_threshold=0.1),
    "context60": Published(logit_scale=50, prob_threshold=0.1, background="word"),
    "voc20": Published(),
    "context59": Published(),
    "cocostuff": Published(short_side=448),
    "ade20k": Published(),
    "cityscapes": Published(short_side=560),
}


def output(clip: Clip, windows: Windows, options: WindowSettings) -> tuple[Tensor, tuple[int, int]]:
    """softmax(q q^T) + softmax(k k^T) in place of softmax(q k^T); the block's residual connection and MLP stay."""
    from pipeline.steps.dense_attention import output_by

    return output_by(clip.visual, windows.tokens, "qq+kk", residual=True), windows.tokens.grid


METHOD = method_of(output, WindowSettings, PUBLISHED)
