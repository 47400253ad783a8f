"""SFP (Jin et al., ICCV 2025): outliers are tokens that the class token looks at more than they look at themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.methods import sc_clip
from pipeline.methods.sc_clip import complete_for
from pipeline.methods.windowed import MiddleSettings, Windows, method_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip

PUBLISHED = {**sc_clip.PUBLISHED, "ade20k": replace(sc_clip.PUBLISHED["ade20k"], short_side=384)}


def output(clip: Clip, windows: Windows, options: MiddleSettings) -> tuple[Tensor, tuple[int, int]]:
    """As SC-CLIP with these outliers; queries join keys and the middle block's similarity, a third each."""
    from pipeline.steps.self_calibration import calibrated_output, outliers_by_attention

    tokens = windows.tokens
    wrong = outliers_by_attention(clip.visual, tokens)
    return calibrated_output(clip.visual, tokens, wrong, ("query", "key"), options.published_slips), tokens.grid


METHOD = replace(method_of(output, MiddleSettings, PUBLISHED), complete=complete_for("sfp", PUBLISHED))
