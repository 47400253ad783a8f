"""GEM (Bousselham et al., CVPR 2024): in the last six blocks patches look at their like, beside CLIP's own path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.methods.windowed import Published, Windows, WindowSettings, method_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip

PUBLISHED = {"": Published()}  # none in this protocol


@dataclass(frozen=True)
class GemSettings(WindowSettings):
    """The protocol's settings."""

    POSITIONS: ClassVar[str] = "bicubic-antialias"
    SENTENCES: ClassVar[str] = "simple"


def output(clip: Clip, windows: Windows, options: WindowSettings) -> tuple[Tensor, tuple[int, int]]:
    """The second path's patches."""
    from pipeline.steps.two_paths import gem_output

    return gem_output(clip.visual, windows.tokens), windows.tokens.grid


METHOD = method_of(output, GemSettings, PUBLISHED)
