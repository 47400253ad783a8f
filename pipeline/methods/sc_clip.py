"""SC-CLIP (Bai et al., 2024): outlier tokens are repaired, and middle blocks gather patches that are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.methods.windowed import Published, Windows, WindowSettings, completed, method_of

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


def complete_for(method: str, published: Mapping[str, Published]) -> Callable[[Clip, DatasetSpec, Any], Any]:
    """The `complete` of a method. It raises UserError for a tower with fewer blocks than are read."""

    def complete(clip: Clip, spec: DatasetSpec, settings: WindowSettings) -> Any:
        from common.errors import UserError
        from pipeline.steps.self_calibration import SUMMED

        blocks, needed = len(clip.visual.transformer.resblocks), max(SUMMED) + 1
        if blocks < needed:
            raise UserError(
                f"--method {method}: expected an image tower of at least {needed} blocks; this one has {blocks}"
            )
        return completed(clip, spec, settings, published)

    return complete


def output(clip: Clip, windows: Windows, options: WindowSettings) -> tuple[Tensor, tuple[int, int]]:
    """Outliers by their local outlier factor; the attention is half by keys, half by the middle block's similarity."""
    from pipeline.steps.self_calibration import calibrated_output, outliers

    tokens = windows.tokens
    wrong = outliers(tokens.last_input[:, 1:])
    return calibrated_output(clip.visual, tokens, wrong, flat_rows=options.published_slips), tokens.grid


METHOD = replace(method_of(output, WindowSettings, PUBLISHED), complete=complete_for("sc-clip", PUBLISHED))
