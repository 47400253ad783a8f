"""SC-CLIP (Bai et al., 2024) and SFP (Jin et al., ICCV 2025): outlier tokens are repaired, and middle blocks say which
patches belong together.

Shape letters as in pipeline/steps/dense_attention.py. Outliers are those of an image by itself.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.transformer import Block, VisionTransformer
from pipeline.steps.dense_attention import Tokens, attend, heads_of, middle_blocks

NEIGHBOURS, QUANTILE = 30, 0.95  # of the local outlier factor; tokens above the quantile are outliers
MOST_OUTLIERS = 10  # of SFP
SIMILAR, SHARPNESS, CLASS_SHARE = 0.4, 3.0, 0.3
EARLY, MIDDLE, SUMMED = 4, 9, range(4, 11)  # blocks, counted from 1, as `middle_blocks` has them


@torch.no_grad()
def calibrated_output(
    visual: VisionTransformer,
    tokens: Tokens,
    wrong: Tensor,
    products: Sequence[str] = ("key",),
    flat_rows: bool = False,
) -> Tensor:
    """Patches (B, N, D) that leave the last block, which has no residual connection and no MLP.

    wrong      (B, N) bool, the outliers among the patches that enter it
    products   the attention is the mean of their softmaxes, each with itself ("query", "key"), and of the similarity's
    flat_rows  find the neighbours of outliers as the public code does, which takes the number of rows for that of the
               columns; only square grids are the same either way
    """
    last, blocks = tokens.last_input, visual.transformer.resblocks
    places = middle_blocks(SUMMED, len(blocks))
    similar = cosines(repaired(tokens.block(places[MIDDLE])[:, 1:], wrong, tokens.grid, flat_rows))
    gathered = gathering(similar) @ repaired(last[:, 1:], wrong, tokens.grid, flat_rows)
    summed = torch.stack([tokens.block(number) for number in sorted(set(places.values()))]).sum(dim=0)
    block, output = blocks[-1], torch.zeros_like(gathered)
    for patches, class_token in ((gathered, last[:, :1]), (summed[:, 1:], summed[:, :1])):
        output = output + attended(block, patches, similar, products) + CLASS_SHARE * class_token
    return gathering(cosines(tokens.block(places[EARLY])[:, 1:])) @ output


def attended(block: Block, patches: Tensor, similar: Tensor, products: Sequence[str]) -> Tensor:
    """(B, N, D): by the products of queries or keys, and by the middle block's similarity (B, N, N), in equal parts."""
    heads = heads_of(block, patches)
    sharp = SHARPNESS * (similar - similar.mean(dim=(1, 2), keepdim=True))
    attention = sharp.masked_fill(sharp < 0, float("-inf")).softmax(dim=-1)[:, None]
    for part in products:
        attention = attention + heads.scores(part, part).softmax(dim=-1)
    return attend(block, attention / (len(products) + 1), heads.value)


def cosines(patches: Tensor) -> Tensor:
    """(B, N, D) to (B, N, N)."""
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.transpose(-2, -1)


def gathering(similar: Tensor) -> Tensor:
    """Weights (B, N, N): what is less similar than SIMILAR counts nothing, rows of sum 1."""
    kept = torch.where(similar < SIMILAR, 0.0, similar)
    return kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)


def outliers(patches: Tensor) -> Tensor:
    """SC-CLIP's, (B, N) bool of patches (B, N, D): local outlier factor, in squared distances, above its 95 % quantile.

    Small grids have fewer than 30 neighbours.
    """
    squared = torch.cdist(patches, patches, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    count = min(NEIGHBOURS, patches.shape[1] - 1)
    if count < 1:
        return torch.zeros_like(patches[..., 0], dtype=torch.bool)
    near, places = squared.topk(count + 1, largest=False)  # the first is the token itself
    reach = near[..., -1]
    inverse = (1 / reach)[:, None].expand_as(squared).gather(2, places[..., 1:])
    factor = reach * inverse.mean(dim=-1)
    return factor > torch.quantile(factor, QUANTILE, dim=-1, keepdim=True)


@torch.no_grad()
def outliers_by_attention(visual: VisionTransformer, tokens: Tokens) -> Tensor:
    """SFP's, (B, N) bool: in the last but one block the class token looks at them more than they look at themselves.

    Of those, at most MOST_OUTLIERS that it looks at most.
    """
    number = len(tokens.after)
    heads = heads_of(visual.transformer.resblocks[number - 1], tokens.block(number - 1))
    attention = heads.scores("query", "key").softmax(dim=-1).mean(dim=1)  # (B, T, T)
    seen = attention[:, 0, 1:]
    found = seen > attention.diagonal(dim1=1, dim2=2)[:, 1:]
    strongest = (seen * found).topk(min(MOST_OUTLIERS, seen.shape[1])).indices
    return found & torch.zeros_like(found).scatter(1, strongest, True)


def repaired(patches: Tensor, wrong: Tensor, grid: tuple[int, int], flat_rows: bool = False) -> Tensor:
    """(B, N, D): each outlier becomes the mean of its up to eight neighbours that are none; unchanged without any."""
    height, width = grid
    field = patches.transpose(1, 2).unflatten(2, grid)  # (B, D, h, w)
    good = (~wrong).unflatten(1, grid)[:, None].to(patches.dtype)
    count = 9 * F.avg_pool2d(good, 3, 1, 1)
    means = 9 * F.avg_pool2d(field * good, 3, 1, 1) / count.clamp(min=1)
    places = torch.arange(height * width, device=patches.device)
    if flat_rows:
        rows, columns = places // height, places % height
        inside = (rows < height) & (columns < width)  # the public code stops at those that are not
        places = torch.where(inside, rows * width + columns, 0)
        moved = torch.zeros_like(wrong, dtype=torch.int64).index_add(1, places, (wrong & inside).long())
        wrong = moved > 0
    usable = wrong.unflatten(1, grid)[:, None] & (count > 0.5)
    return torch.where(usable, means, field).flatten(2).transpose(1, 2)
