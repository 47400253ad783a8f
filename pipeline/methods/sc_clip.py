"""SC-CLIP (Bai et al., 2024): outlier tokens are repaired, and middle blocks gather patches that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.methods.windowed import Published, WindowSettings, completed, method_of, positions_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip
    from dataset.spec import DatasetSpec

PUBLISHED = {
    "": Published(),
    "voc12": Published(logit_scale=50, prob_threshold=0.15, area_threshold=0.1),
    "coco14": Published(logit_scale=55, prob_threshold=0.35),
    "cocoobject": Published(logit_scale=55, prob_threshold=0.35),
    "context60": Published(prob_threshold=0.15, background="word"),
    "voc20": Published(),
    "context59": Published(),
    "cocostuff": Published(),
    "ade20k": Published(),
    "cityscapes": Published(short_side=560),
}


def complete(clip: Clip, spec: DatasetSpec, settings: WindowSettings) -> Any:
    """Raises UserError for a tower with fewer blocks than are read."""
    from common.errors import UserError
    from pipeline.steps.self_calibration import SUMMED

    blocks, needed = len(clip.visual.transformer.resblocks), max(SUMMED) + 1
    if blocks < needed:
        raise UserError(f"--method sc-clip: expected an image tower of at least {needed} blocks; this one has {blocks}")
    return completed(clip, spec, settings, PUBLISHED)


def output(
    clip: Clip, windows: Tensor, text: Tensor, owners: Sequence[int], options: WindowSettings
) -> tuple[Tensor, tuple[int, int]]:
    from pipeline.steps.dense_attention import run_blocks
    from pipeline.steps.self_calibration import calibrated_output

    tokens = run_blocks(clip.visual, windows, positions_of(options))
    return calibrated_output(clip.visual, tokens, flat_rows=options.published_slips), tokens.grid


METHOD = replace(method_of(output, WindowSettings, PUBLISHED), complete=complete)
