"""NACLIP (Hajimiri et al., WACV 2025): patches with similar keys look at each other, near ones more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.arguments import option, positive_number
from pipeline.methods.windowed import Published, Windows, WindowSettings, method_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip

PUBLISHED = {
    "": Published(pamr=10),
    "voc12": Published(window=0, prob_threshold=0.1, pamr=10),
    "coco14": Published(prob_threshold=0.1, pamr=10),
    "cocoobject": Published(prob_threshold=0.1, pamr=10),
    "context60": Published(prob_threshold=0.1, pamr=10, background="word"),
    "voc20": Published(window=0, pamr=10),
    "context59": Published(pamr=10),
    "cocostuff": Published(pamr=10),
    "ade20k": Published(pamr=10),
    "cityscapes": Published(short_side=560, pamr=10),
}


@dataclass(frozen=True)
class NaClipSettings(WindowSettings):
    """The method's own settings."""

    neighbourhood: float = option(
        5.0, "standard deviation of the Gaussian window around a patch, in patches", type=positive_number, metavar="STD"
    )


def output(clip: Clip, windows: Windows, options: NaClipSettings) -> tuple[Tensor, tuple[int, int]]:
    """softmax(k k^T + window); no residual connection and no MLP."""
    from pipeline.steps.dense_attention import output_by

    return output_by(clip.visual, windows.tokens, "kk+window", std=options.neighbourhood), windows.tokens.grid


METHOD = method_of(output, NaClipSettings, PUBLISHED)
