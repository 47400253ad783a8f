"""A second path beside the last blocks: patches that look at their like, block by block, and no MLP.

The first path is CLIP as it is; queries, keys and values of the second are those of the first. GEM (Bousselham et al.,
CVPR 2024) and ExCEL (Yang et al., CVPR 2025; the structure is CLIP Surgery's, Li et al., 2023).
Shape letters as in pipeline/steps/dense_attention.py.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.transformer import Block, VisionTransformer
from pipeline.steps.dense_attention import Heads, Tokens, attend, heads_of, same_depth
from pipeline.steps.tensors import min_max

GEM_BLOCKS, SURGERY_BLOCKS = 6, 5  # last blocks that have a second path
CLASS_SHARPNESS = 2.0  # of the class token's softmax over the texts

AttentionOf = Callable[[Block, Tensor, Heads], Tensor]  # of a block, what enters it, and its heads


@torch.no_grad()
def gem_output(visual: VisionTransformer, tokens: Tokens) -> Tensor:
    """GEM's patches (B, N, D). A tower with no more blocks than GEM takes gives half of them, as one of twelve does.

    A second path beside all of them would never see an MLP: on the toy world 9 mIoU instead of 56.
    """
    blocks = len(visual.transformer.resblocks)
    count = GEM_BLOCKS if blocks > GEM_BLOCKS else blocks - same_depth(GEM_BLOCKS, blocks)
    return second_path(visual, tokens, count, gem_attention)[:, 1:]


@torch.no_grad()
def surgery_output(visual: VisionTransformer, tokens: Tokens) -> Tensor:
    """ExCEL's patches (B, N, D)."""
    return second_path(visual, tokens, SURGERY_BLOCKS, surgery_attention)[:, 1:]


def second_path(visual: VisionTransformer, tokens: Tokens, count: int, attention: AttentionOf) -> Tensor:
    """(B, T, D): what enters the first of the `count` last blocks, and each block's attention output added to it."""
    blocks = visual.transformer.resblocks
    first = max(0, len(blocks) - count)
    path = tokens.block(first)
    for number, block in enumerate(blocks[first:], first):
        entering = tokens.block(number)
        heads = heads_of(block, entering)
        path = path + block.ls_1(attend(block, attention(block, entering, heads), heads.value))
    return path


def gem_attention(block: Block, entering: Tensor, heads: Heads) -> Tensor:
    """(B, H, T, T): the mean of queries', keys' and values' own, each gathered by itself once before.

    The inverse temperature is the mean length of the block's normalised tokens over the root of a head's width.
    """
    lengths = block.ln_1(entering).norm(dim=-1).mean(dim=-1)[:, None, None, None]
    sharpness = lengths * heads.value.shape[-1] ** -0.5
    total = torch.zeros(())
    for part in (heads.query, heads.key, heads.value):
        unit = F.normalize(part, dim=-1)
        unit = F.normalize(_alike(unit, sharpness) @ unit, dim=-1)
        total = total + _alike(unit, sharpness)
    return total / 3


def _alike(unit: Tensor, sharpness: Tensor) -> Tensor:
    return (sharpness * unit @ unit.transpose(-2, -1)).softmax(dim=-1)


def surgery_attention(block: Block, entering: Tensor, heads: Heads) -> Tensor:
    """(B, 1, T, T), the same for all heads: the mean of queries', keys' and values' own, added up over the heads."""
    own = sum(heads.scores(part, part).softmax(dim=-1) for part in ("query", "key", "value"))
    return own.sum(dim=1, keepdim=True) / 3  # type: ignore[union-attr]


def surgery_maps(features: Tensor, class_feature: Tensor, texts: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (B, K, h, w) in [0, 1] of unit features (B, N, E) for unit texts (K, E): feature surgery.

    class_feature  (B, E) of unit length, the class token's
    A text counts as the class token sees it, relative to the mean; what all texts have in common is taken off.
    """
    weights = (CLASS_SHARPNESS * class_feature @ texts.T).softmax(dim=-1)
    weighted = features @ texts.T * (weights / weights.mean(dim=-1, keepdim=True))[:, None]  # (B, N, K)
    maps = (weighted - weighted.mean(dim=-1, keepdim=True)).transpose(1, 2)
    return min_max(maps.unflatten(2, grid))
