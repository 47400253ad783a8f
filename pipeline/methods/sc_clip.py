"""SC-CLIP (Bai et al., 2024): outlier tokens are repaired, and middle blocks gather patches that are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.methods.windowed import MiddleSettings, Published, Windows, blocks_read, completed, method_of

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
    """The `complete` of a method. It raises UserError for a tower without middle blocks."""

    def complete(clip: Clip, spec: DatasetSpec, settings: MiddleSettings) -> Any:
        from pipeline.steps.self_calibration import SUMMED

        settings = completed(clip, spec, settings, published)
        return replace(settings, blocks=blocks_read(method, clip, SUMMED))

    return complete


def output(clip: Clip, windows: Windows, options: MiddleSettings) -> tuple[Tensor, tuple[int, int]]:
    """Outliers by their local outlier factor; the attention is half by keys, half by the middle block's similarity."""
    from pipeline.steps.self_calibration import calibrated_output, outliers

    tokens = windows.tokens
    wrong = outliers(tokens.last_input[:, 1:])
    return calibrated_output(clip.visual, tokens, wrong, flat_rows=options.published_slips), tokens.grid


METHOD = replace(method_of(output, MiddleSettings, PUBLISHED), complete=complete_for("sc-clip", PUBLISHED))
