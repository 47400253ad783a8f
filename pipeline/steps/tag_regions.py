"""The parts of TagCLIP (Lin et al., AAAI 2024): scores of patches, voted attention, crops, labels.

`pipeline/methods/tagclip.py` puts them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.transformer import VisionTransformer
from clip.vision import class_token_features, run_block, vision_forward

NEIGHBOUR_BIAS = -100.0  # closes the last block's attention to all but the patch itself
HIDDEN_BIAS = -1000.0  # closes the class token's attention to patches outside the region


@torch.no_grad()
def patch_probabilities(visual: VisionTransformer, last_input: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Coarse scores S (B, N, C): the softmax of each patch over classes and background words.

    last_input  (B, 1+N, D) tokens that enter the last block
    text        (C, E) unit embeddings

    In the last block every token attends to itself alone (its output is then about its own place), while the
    attention maps that `vision_forward` returns are the model's own.
    """
    length = last_input.shape[1]
    bias = torch.full((length, length), NEIGHBOUR_BIAS, device=last_input.device, dtype=last_input.dtype)
    output, _ = run_block(visual.transformer.resblocks[-1], last_input, attention_bias=bias.fill_diagonal_(0))
    features = F.normalize(visual.ln_post(output[:, 1:]) @ visual.proj, dim=-1)
    return (logit_scale * features @ text.T).softmax(dim=-1)


def voted_attention(attention: Tensor, votes: int, blocks: Sequence[int]) -> Tensor:
    """The affinity W (N, N) of an image: mean attention of `blocks`, 0 where too few blocks vote for it.

    attention  (L, N, N) of all blocks, head-averaged, patch to patch
    votes      blocks whose attention must exceed its mean there
    """
    voted = (attention > attention.mean(dim=(-2, -1), keepdim=True)).sum(dim=0)
    return attention[list(blocks)].mean(dim=0) * (voted >= votes)


@dataclass(frozen=True)
class Region:
    """The place of a class: rows y0..y1-1 and columns x0..x1-1 of patches, and which of a crop's patches count.

    inside  (g, g) bool on the grid that the CLIP was trained with
    """

    y0: int
    y1: int
    x0: int
    x1: int
    inside: Tensor


def candidates(scores: Tensor, share: float) -> list[int]:
    """Classes to score in a crop: those whose best patch exceeds min + share * (max - min) of (N, K) scores.

    The extremes are those of all patches and classes, not of the classes' maxima.
    """
    lowest, highest = scores.min(), scores.max()
    return torch.nonzero(scores.amax(dim=0) > lowest + share * (highest - lowest)).flatten().tolist()


def region_of(heat: Tensor, level: float, side: int) -> Region | None:
    """The bounding box of what exceeds `level` in a map (h, w) in [0, 1], and the mask in it, scaled to side x side.

    As published, the box's far edge is min(last + 1, size - 1): at the border it loses its last row or column. None
    when nothing is left of the box, or of the mask in it. (The reference then makes no crop of any class of the image;
    here only this class has none.)
    """
    mask = heat > level
    rows, columns = torch.nonzero(mask.any(dim=1)).flatten(), torch.nonzero(mask.any(dim=0)).flatten()
    if not len(rows):
        return None
    y0, y1 = int(rows[0]), min(int(rows[-1]) + 1, heat.shape[0] - 1)
    x0, x1 = int(columns[0]), min(int(columns[-1]) + 1, heat.shape[1] - 1)
    if y0 >= y1 or x0 >= x1:
        return None
    inside = F.interpolate(mask[None, None, y0:y1, x0:x1].float(), size=(side, side), mode="nearest")[0, 0] > 0
    return Region(y0, y1, x0, x1, inside) if inside.any() else None


def crop(image: Tensor, region: Region, patch_size: int) -> Tensor:
    """The region's pixels of (3, h*p, w*p), resized bilinearly to the size the CLIP was trained with, (3, g*p, g*p)."""
    p, side = patch_size, len(region.inside) * patch_size
    pixels = image[None, :, region.y0 * p : region.y1 * p, region.x0 * p : region.x1 * p]
    return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)[0]


def region_bias(inside: Tensor) -> Tensor:
    """(B, g, g) bool to the attention bias (B, 1, 1+g*g, 1+g*g): the class token sees itself and the region only."""
    hidden = ~inside.flatten(1)  # (B, N)
    length = 1 + hidden.shape[1]
    bias = torch.zeros(len(hidden), 1, length, length, device=inside.device)
    bias[:, 0, 0, 1:] = hidden * HIDDEN_BIAS
    return bias


@torch.no_grad()
def crop_probabilities(
    visual: VisionTransformer, crops: Tensor, inside: Tensor, text: Tensor, logit_scale: Tensor
) -> Tensor:
    """(B, C) probabilities q of whole crops (B, 3, g*p, g*p), from the class token held to their regions.

    The bias acts in all blocks; the last one is otherwise the model's own (no identity attention: the class token
    would then not look at the patches at all).
    """
    output = vision_forward(visual, crops, attention_blocks=0, attention_bias=region_bias(inside)).last_output
    features = F.normalize(class_token_features(visual, output), dim=-1)
    return (logit_scale * features @ text.T).softmax(dim=-1)


def choose_labels(scores: np.ndarray, share: float) -> tuple[int, ...]:
    """Labels of an image: the classes above min + share * (max - min) of its scores (K,), ascending.

    When all scores are equal, as with a single class, that is the first class: TagCLIP compares classes with each
    other, so an image always gets a label.
    """
    lowest, highest = float(scores.min()), float(scores.max())
    chosen = np.flatnonzero(scores > lowest + share * (highest - lowest))
    return tuple(int(index) for index in chosen) or (int(scores.argmax()),)
