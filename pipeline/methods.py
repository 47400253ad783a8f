"""The CAM methods by name, each composed of the steps. May import clip and pipeline.

A method takes a batch of images that share a patch grid and returns (cam, attn) maps for each; a new method is a
function here or in a file of its own, a line in METHODS, and a test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from clip.load import Clip
from clip.vision import RunBlock, run_block, vision_trunk
from pipeline.affinity import ATTENTION_BLOCKS, mean_attention, refine, transition_matrix
from pipeline.cam import softmax_gradcam
from pipeline.tta import averaged, transforms

MapPair = tuple[Tensor, Tensor]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class CamSettings:
    """What a method may be told; part of every CAM file's record.

    box_threshold  share of a CAM's maximum above which a pixel enters a box
    scales, flip   test-time augmentation; (1.0,) and False: none
    max_side       larger images are shrunk to this side, in pixels, for CLIP; the maps still stand for all of them
    precision      one of PRECISIONS, of all blocks but the last; that, its gradients and the affinity are float32
    compile        whether those blocks are compiled by torch.compile
    """

    method: str = "clip-es"
    box_threshold: float = 0.4
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    max_side: int = 1024
    precision: str = "float32"
    compile: bool = False


@dataclass(frozen=True)
class TextSet:
    """foreground (K, E) and background (b, E) unit text embeddings, on CLIP's device."""

    foreground: Tensor
    background: Tensor


def clip_es(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """CLIP-ES on a batch (B, 3, h*p, w*p): B pairs of (k_i, h, w) maps in [0, 1], before and after the affinity."""
    precision = PRECISIONS[settings.precision]
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        run = compiled_block() if settings.compile else run_block
        trunk = vision_trunk(clip.visual, images, ATTENTION_BLOCKS, run=run)
    cams, attention = softmax_gradcam(
        clip.visual,
        trunk.last_input.float(),
        trunk.grid,
        labels,
        text.foreground,
        text.background,
        clip.logit_scale,
    )
    transitions = transition_matrix(mean_attention([*trunk.attention, attention]))
    return list(zip(cams, refine(transitions, cams, settings.box_threshold)))


@cache
def compiled_block() -> RunBlock:
    """`run_block`, compiled when first called; once for all blocks and sizes of images."""
    return torch.compile(run_block, dynamic=True)


METHODS: dict[str, Callable[[Clip, Tensor, Sequence[Sequence[int]], TextSet, CamSettings], list[MapPair]]] = {
    "clip-es": clip_es,
}


def compute_maps(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """The chosen method on a batch, with test-time augmentation where the settings ask for it."""
    method = METHODS[settings.method]
    if settings.scales == (1.0,) and not settings.flip:
        return method(clip, images, labels, text, settings)
    return averaged(
        lambda variant: method(clip, variant, labels, text, settings),
        images,
        transforms(settings.scales, settings.flip),
        clip.patch_size,
    )
