"""ResCLIP (Yang et al., CVPR 2025): earlier attention joins the last block's, and a first answer sharpens it.

Shape letters as in pipeline/steps/dense_attention.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.transformer import VisionTransformer
from pipeline.steps.dense_attention import Heads, Tokens, attend, finish, heads_of, middle_blocks, neighbourhood
from pipeline.steps.pamr import pamr

EARLIER_BLOCKS = (6, 7, 8, 9)  # counted from 1, as `middle_blocks` has them
SMOOTHING_STD, MOST_TAPS = 5.0, 31


@dataclass(frozen=True)
class Mixing:
    """Weights of the paper's two parts.

    rcs  (T1, l1): T1 * ((1 - l1) * attention + l1 * earlier attention)
    sfr  (T2, l2): scores T2 * ((1 - l2) * products + l2 * map of equal labels)
    """

    rcs: tuple[float, float]
    sfr: tuple[float, float]


@torch.no_grad()
def earlier_attention(visual: VisionTransformer, tokens: Tokens) -> Tensor:
    """The ordinary attention (B, H, T, T), averaged over EARLIER_BLOCKS, head by head."""
    total, blocks = torch.zeros(()), visual.transformer.resblocks
    numbers = sorted(set(middle_blocks(EARLIER_BLOCKS, len(blocks)).values()))
    for number in numbers:
        heads = heads_of(blocks[number - 1], tokens.block(number - 1))
        total = total + heads.scores("query", "key").softmax(dim=-1)
    return total / len(numbers)


Scores = Callable[[Heads], tuple[Tensor, ...]]  # products (B, H, T, T); their softmaxes are added
PRODUCTS: dict[str, Scores] = {
    "kk+window": lambda heads: (heads.scores("key", "key"),),
    "qq": lambda heads: (heads.scores("query", "query"),),
    "qk": lambda heads: (heads.scores("query", "key"),),
    "qq+kk": lambda heads: (heads.scores("query", "query"), heads.scores("key", "key")),
}


@torch.no_grad()
def residual_output(
    visual: VisionTransformer,
    tokens: Tokens,
    mixing: Mixing,
    same_label: Tensor | None = None,
    products: str = "kk+window",
    residual: bool = False,
    std: float = 5.0,
    earlier: Tensor | None = None,
) -> Tensor:
    """Patches (B, N, D) that leave the last block.

    same_label  (B, N, N), see `label_map`; None: residual cross-correlation alone (RCS)
    products    one of PRODUCTS
    earlier     `earlier_attention`, where the caller has it
    """
    block, entering = visual.transformer.resblocks[-1], tokens.last_input
    heads = heads_of(block, entering)
    window = neighbourhood(tokens.grid, std, heads.key) if products == "kk+window" else 0.0
    total, share = mixing.sfr
    weights = torch.zeros(())
    for scores in PRODUCTS[products](heads):
        if same_label is not None:
            scores = total * ((1 - share) * scores + share * F.pad(same_label, (1, 0, 1, 0))[:, None])
        weights = weights + (scores + window).softmax(dim=-1)
    total, share = mixing.rcs
    earlier = earlier_attention(visual, tokens) if earlier is None else earlier
    weights = total * ((1 - share) * weights + share * earlier)
    return finish(block, entering, attend(block, weights, heads.value), residual)[:, 1:]


@torch.no_grad()
def first_labels(
    features: Tensor,
    text: Tensor,
    classes: Sequence[int],
    image: Tensor,
    grid: tuple[int, int],
    patch: int,
    scale: float,
    threshold: float,
) -> Tensor:
    """The class of each patch (B, h, w) by the features so far, or 0 below the threshold.

    features  (B, N, E)
    text      (Q, E) unit embeddings of words
    classes   the class of each word
    image     (B, 3, H, W) the window; what is behind its last whole patch is left out
    """
    height, width = image.shape[-2:]
    cosines = (F.normalize(features, dim=-1) @ text.T).transpose(1, 2).unflatten(2, grid)  # (B, Q, h, w)
    maps = F.interpolate(cosines, size=(height, width), mode="bilinear", align_corners=False)
    # one by one: together they would take several times as long on a CPU, and gigabytes
    refined = torch.cat([pamr(scores[None], around[None]) for scores, around in zip(maps, image)])
    best, labels = (scale * refined).softmax(dim=1).max(dim=1)
    labels = torch.tensor(list(classes), device=labels.device)[labels]
    labels[best < threshold] = 0
    whole = (
        labels[:, : grid[0] * patch, : grid[1] * patch].unflatten(2, (grid[1], patch)).unflatten(1, (grid[0], patch))
    )
    cells = whole.transpose(2, 3).flatten(3)  # (B, h, w, patch * patch)
    return cells.mode(dim=-1).values  # the smallest of those that are equally frequent


@torch.no_grad()
def label_map(labels: Tensor, as_published: bool = False) -> Tensor:
    """How much patches of one label look at each other (N, N), from the labels (h, w) (SFR).

    1 for equal labels, less with the distance where the straight line between two patches leaves the label; smoothed
    along the rows' flattened index.

    as_published  a short line is checked over its first part only, and the result is rounded to half precision
    """
    height, width = labels.shape
    rows, columns = (
        places.flatten().float() for places in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    rows, columns, flat = rows.to(labels.device), columns.to(labels.device), labels.flatten()
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())  # Chebyshev
    longest = int(max(height, width) - 1)
    leaves = torch.zeros_like(apart, dtype=torch.bool)
    for step, place in enumerate(torch.linspace(0, 1, longest + 1).tolist()):
        on_line = [(axis[:, None] * (1 - place) + axis * place).round().long() for axis in (rows, columns)]
        seen = step <= apart if as_published else True
        leaves |= (labels[on_line[0], on_line[1]] != flat[:, None]) & seen
    equal = (flat[:, None] == flat).float()
    faded = torch.where(leaves, equal * torch.exp(-apart / max(longest, 1)), equal)
    smooth = smooth_rows(faded)
    smooth = smooth / (smooth.sum(dim=-1, keepdim=True) + 1e-8)
    smooth = smooth / smooth.max()
    return smooth.half().float() if as_published else smooth


def smooth_rows(matrix: Tensor) -> Tensor:
    """Every row of (N, N) under a Gaussian of SMOOTHING_STD along its index, zeros outside."""
    taps = min(len(matrix), MOST_TAPS)
    taps -= 1 - taps % 2
    offsets = torch.arange(taps, device=matrix.device) - taps // 2
    kernel = torch.exp(-(offsets.float() ** 2) / (2 * SMOOTHING_STD**2))
    return F.conv1d(matrix[:, None], (kernel / kernel.sum())[None, None], padding=taps // 2)[:, 0]
