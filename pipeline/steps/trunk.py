"""All blocks of the vision transformer but the last, in a chosen precision, without gradients."""

from functools import cache

import torch
from torch import Tensor

from clip.transformer import VisionTransformer
from clip.vision import RunBlock, TrunkFeatures, run_block, vision_trunk, with_matrices_in
from pipeline.steps.tensors import computing_in


def run_trunk(
    visual: VisionTransformer,
    images: Tensor,
    positions: str,
    attention_blocks: int,
    precision: str = "float32",
    compiled: bool = False,
) -> TrunkFeatures:
    """The tokens that enter the last block, and the attention of the blocks before it.

    images            (B, 3, h*p, w*p) float32, normalised
    positions         how positions are resized: "bilinear" (CLIP-ES) or "bicubic" (MaskCLIP)
    attention_blocks  attention is kept of this many last blocks, the last of all among them
    precision         "float32", "bfloat16" or "float16", by autocast
    compiled          whether the blocks are compiled by torch.compile
    """
    visual = with_matrices_in(visual, getattr(torch, precision))
    with computing_in(precision, images.device):
        return vision_trunk(visual, images, attention_blocks, run=block_runner(compiled), positions=positions)


def block_runner(compiled: bool) -> RunBlock:
    """What runs a block, compiled where it is asked for."""
    return compiled_block() if compiled else run_block


@cache
def compiled_block() -> RunBlock:
    """`run_block`, compiled when first called; once for all blocks and sizes of images."""
    return torch.compile(run_block, dynamic=True)
