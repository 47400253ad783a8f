"""ClearCLIP (Lan et al., ECCV 2024): the last block without residual connection and MLP, by queries alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.methods.windowed import Published, Windows, WindowSettings, method_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip


def _published(prob_threshold: float = 0.0, window: int = 448) -> Published:
    return Published(448, window, 224, 50.0, prob_threshold, background="word")


PUBLISHED = {
    "": _published(),
    "voc12": _published(0.5),
    "coco14": _published(0.4),
    "cocoobject": _published(0.4),
    "context60": _published(0.15),
    "voc20": _published(),
    "context59": _published(),
    "cocostuff": _published(),
    "ade20k": _published(),
    "cityscapes": _published(window=224),
}


def output(clip: Clip, windows: Windows, options: WindowSettings) -> tuple[Tensor, tuple[int, int]]:
    """The output of the attention softmax(q q^T), and nothing else, goes to the projection."""
    from pipeline.steps.dense_attention import output_by

    return output_by(clip.visual, windows.tokens, "qq"), windows.tokens.grid


@dataclass(frozen=True)
class ClearClipSettings(WindowSettings):
    """The protocol's settings."""

    FILLED: ClassVar[bool] = True


VOC_WORDS = {"boat": ("ship",), "diningtable": ("table",)}
NAMES = {"voc12": VOC_WORDS, "voc20": VOC_WORDS, "context59": {}, "context60": {}}
METHOD = method_of(output, ClearClipSettings, PUBLISHED, NAMES)
