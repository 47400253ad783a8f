"""Pixel-adaptive mask refinement (PAMR; Araslanov and Roth, CVPR 2020): scores move to neighbours of like colour."""

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (8, 16)
STEPS = 10
CHANNELS = 8  # that are gathered together; bounds memory
SHARPNESS = 0.1  # of the standard deviation that colour differences are measured in


@torch.no_grad()
def pamr(scores: Tensor, image: Tensor, steps: int = STEPS, dilations: tuple[int, ...] = DILATIONS) -> Tensor:
    """Scores (B, C, H, W), averaged `steps` times over the neighbours of each pixel that look like it.

    image  (B, 3, H, W), any normalisation
    A pixel has eight neighbours a dilation; borders are repeated. Its weights are a softmax over them of the channel
    mean of -|difference| / (1e-8 + 0.1 * standard deviation over both stencils, centre included).
    """
    around = torch.cat([neighbours(image, dilation) for dilation in dilations], dim=2)  # (B, 3, 8 * dilations, H, W)
    samples = torch.cat([torch.cat([neighbours(image, d), image[:, :, None]], dim=2) for d in dilations], dim=2)
    spread = samples.std(dim=2, keepdim=True)
    apart = (around - image[:, :, None]).abs() / (1e-8 + SHARPNESS * spread)
    weights = (-apart).mean(dim=1).softmax(dim=1)  # (B, 8 * dilations, H, W)
    for _ in range(steps):
        scores = torch.cat([_gathered(some, weights, dilations) for some in scores.split(CHANNELS, dim=1)], dim=1)
    return scores


def _gathered(scores: Tensor, weights: Tensor, dilations: tuple[int, ...]) -> Tensor:
    gathered, shares = torch.zeros_like(scores), iter(weights.unbind(dim=1))  # (B, H, W) each
    for dilation in dilations:
        for neighbour in shifted(scores, dilation):
            gathered.addcmul_(neighbour, next(shares)[:, None])
    return gathered


def neighbours(maps: Tensor, dilation: int) -> Tensor:
    """(B, C, H, W) to (B, C, 8, H, W): the values of the eight neighbours at this distance, borders repeated."""
    return torch.stack(shifted(maps, dilation), dim=2)


def shifted(maps: Tensor, dilation: int) -> list[Tensor]:
    """The same as eight views (B, C, H, W) of one tensor."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, [dilation] * 4, mode="replicate")
    offsets = [(row, column) for row in (0, 1, 2) for column in (0, 1, 2) if (row, column) != (1, 1)]
    return [padded[..., r * dilation : r * dilation + height, c * dilation : c * dilation + width] for r, c in offsets]
