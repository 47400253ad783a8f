"""SC-CLIP (Bai et al., 2024): outlier tokens are repaired, and middle blocks say which patches belong together.

Shape letters as in pipeline/steps/dense_attention.py; one image at a time, since outliers are its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.transformer import Block, VisionTransformer
from pipeline.steps.dense_attention import Tokens, attend, heads_of

NEIGHBOURS, QUANTILE = 30, 0.95  # of the local outlier factor; tokens above the quantile are outliers
SIMILAR, SHARPNESS, CLASS_SHARE = 0.4, 3.0, 0.3
EARLY, MIDDLE, SUMMED = 4, 9, range(4, 11)  # blocks, counted from 1


@torch.no_grad()
def calibrated_output(visual: VisionTransformer, tokens: Tokens, flat_rows: bool = False) -> Tensor:
    """Patches (B, N, D) that leave the last block, which has no residual connection and no MLP.

    flat_rows  find the neighbours of outliers as the public code does, which takes the number of rows for that of the
               columns; only square grids are the same either way
    """
    images = []
    for index in range(len(tokens.last_input)):
        after = [output[index] for output in tokens.after]
        images.append(_of_one(visual, after, tokens.grid, flat_rows))
    return torch.stack(images)


def _of_one(visual: VisionTransformer, after: list[Tensor], grid: tuple[int, int], flat_rows: bool) -> Tensor:
    last, middle, early = after[-1], after[MIDDLE - 1][1:], after[EARLY - 1][1:]
    wrong = outliers(last[1:])
    similar = cosines(repaired(middle, wrong, grid, flat_rows))
    early_similar = gathering(cosines(early))
    block = visual.transformer.resblocks[-1]
    tokens = gathering(similar) @ repaired(last[1:], wrong, grid, flat_rows)
    summed = torch.stack([after[number - 1] for number in SUMMED]).sum(dim=0)
    output = torch.zeros_like(tokens)
    for patches, class_token in ((tokens, last[0]), (summed[1:], summed[0])):
        output = output + early_similar @ (attended(block, patches, similar) + CLASS_SHARE * class_token)
    return output


def attended(block: Block, patches: Tensor, similar: Tensor) -> Tensor:
    """(N, D): half by the keys' attention, half by the middle block's similarity (N, N)."""
    heads = heads_of(block, patches[None])
    sharp = SHARPNESS * (similar - similar.mean())
    by_similarity = sharp.masked_fill(sharp < 0, float("-inf")).softmax(dim=-1)
    attention = (heads.scores("key", "key").softmax(dim=-1) + by_similarity) / 2
    return attend(block, attention, heads.value)[0]


def cosines(patches: Tensor) -> Tensor:
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.T


def gathering(similar: Tensor) -> Tensor:
    """Weights (N, N): what is less similar than SIMILAR counts nothing, rows of sum 1."""
    kept = torch.where(similar < SIMILAR, 0.0, similar)
    return kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)


def outliers(patches: Tensor) -> Tensor:
    """(N,) bool: local outlier factor, in squared distances, above its 95 % quantile.

    Small grids have fewer than 30 neighbours.
    """
    squared = torch.cdist(patches, patches, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    count = min(NEIGHBOURS, len(patches) - 1)
    if count < 1:
        return torch.zeros(len(patches), dtype=torch.bool, device=patches.device)
    near, places = squared.topk(count + 1, largest=False)  # the first is the token itself
    reach = near[:, -1]
    factor = reach * (1 / reach)[places[:, 1:]].mean(dim=-1)
    return factor > torch.quantile(factor, QUANTILE)


def repaired(patches: Tensor, wrong: Tensor, grid: tuple[int, int], flat_rows: bool = False) -> Tensor:
    """(N, D): each outlier becomes the mean of its up to eight neighbours that are none; unchanged without any."""
    height, width = grid
    columns = height if flat_rows else width
    result, good = patches.clone(), (~wrong).view(height, width)
    field = patches.view(height, width, -1)
    for place in wrong.nonzero()[:, 0].tolist():
        row, column = place // columns, place % columns
        rows, cells = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        usable = good[rows, cells].clone()
        if usable.any():
            result.view(height, width, -1)[row, column] = field[rows, cells][usable].mean(dim=0)
    return result
