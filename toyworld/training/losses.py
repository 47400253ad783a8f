"""The losses: all of them compare images with captions; none sees a mask.

Letters: B images, N patches, T captions, C concepts (one-word captions), E embedding. Features are unit vectors.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from toyworld.training.model import VisionOutput

LOCAL_BLOCKS = 2
POOLING_TEMPERATURE = 0.1
SHARPNESS = 3.0  # of the posteriors that attention follows; the plain ones stay vague for most of the training


@dataclass(frozen=True)
class Weights:
    """What each loss counts."""

    cls: float = 0.5
    mean: float = 1.0
    pooled: float = 1.0
    values: float = 1.0
    unnamed: float = 1.0
    affinity: float = 2.0
    reach: float = 3.0  # of the affinity, the standard deviation in patches of a Gaussian; 0: any distance


def image_losses(output: VisionOutput, features: Tensor, matches: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Class token and mean patch against all captions: features (T, E), matches (B, T)."""
    return {
        "cls": contrast(scale * cosines(output.image, features), matches),
        "mean": contrast(scale * cosines(output.patches.mean(1), features), matches),
    }


def patch_losses(
    output: VisionOutput, concepts: Tensor, present: Tensor, scale: Tensor, reach: float
) -> dict[str, Tensor]:
    """Patches against the one-word captions: concepts (C, E), present (B, C).

    `unnamed` is asked of the first blocks only, whose values see little more than their own patch. Asked of the last
    patch tokens it taught them to copy the image's labels from each other: CAM 45 instead of 54, refined 33.
    `affinity` is asked of all blocks. What patches give to the class token counts as lost: left free, those of the last
    block looked at it alone, and the gradient that Grad-CAM takes there was noise (CAM 35 instead of 61).
    """
    similarities = torch.stack([cosines(values, concepts) for values in output.values])  # (L, B, N, C)
    losses = {
        "pooled": contrast(scale * pooled(cosines(output.patches, concepts)), present),
        "values": torch.stack([contrast(scale * pooled(block), present) for block in similarities]).mean(),
        "unnamed": torch.stack([unnamed(scale * block, present) for block in similarities[:LOCAL_BLOCKS]]).mean(),
    }
    if output.attention:
        posteriors = (SHARPNESS * scale * similarities.mean(0)).detach().softmax(-1)
        near = nearness(*output.grid, reach) if reach else None
        losses["affinity"] = torch.stack([affinity(a, posteriors, near) for a in output.attention]).mean()
    return losses


def contrast(logits: Tensor, matches: Tensor) -> Tensor:
    """InfoNCE in both directions where an image may match several captions and a caption several images.

    logits (B, T); matches (B, T) bool: everything the caption tells is in the image. Images or captions without a
    match are left out.
    """

    def one_way(logits: Tensor, matches: Tensor) -> Tensor:
        weights = matches.float()
        counts = weights.sum(1)
        rows = -(weights * logits.log_softmax(1)).sum(1) / counts.clamp(min=1)
        return rows[counts > 0].mean()

    return (one_way(logits, matches) + one_way(logits.T, matches.T)) / 2


def pooled(cosines: Tensor) -> Tensor:
    """(B, C) soft maximum over the patches of (B, N, C) cosines: tau * log mean exp(cosine / tau).

    What is in the image needs only a few patches that say so, which makes the patches local.
    """
    log_count = torch.tensor(float(cosines.shape[1])).log().item()
    return (cosines / POOLING_TEMPERATURE).logsumexp(1).sub(log_count) * POOLING_TEMPERATURE


def unnamed(logits: Tensor, present: Tensor) -> Tensor:
    """How much the patches speak of what the caption does not name: mean of -log of the posterior of the present.

    logits (B, N, C); present (B, C) bool.
    """
    named = logits.masked_fill(~present[:, None], -torch.inf).logsumexp(-1)
    return (logits.logsumexp(-1) - named).mean()


def affinity(attention: Tensor, posteriors: Tensor, near: Tensor | None = None) -> Tensor:
    """Attention should go where the same thing is, and near: cross-entropy of its rows against the patches' agreement.

    attention (B, N, N), rows sum to at most 1; posteriors (B, N, C) of the patches over the concepts, no gradient;
    near (N, N) what the agreement is multiplied by. A row's weight is the inverse of its agreement at any distance, so
    that small objects count as much as large backgrounds.
    """
    agreement = posteriors @ posteriors.transpose(1, 2)
    weights = 1 / agreement.sum(-1)
    if near is not None:
        agreement = agreement * near
    rows = -(agreement / agreement.sum(-1, keepdim=True) * attention.clamp(min=1e-6).log()).sum(-1)  # (B, N)
    return (rows * weights).sum() / weights.sum()


@cache
def nearness(rows: int, columns: int, reach: float) -> Tensor:
    """(N, N) float32, a Gaussian of the distance between the patches of a grid."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return torch.exp(-torch.cdist(places, places).square() / (2 * reach**2))


def cosines(features: Tensor, texts: Tensor) -> Tensor:
    """Similarities (..., T) of features (..., E), normalised here, with unit texts (T, E)."""
    return F.normalize(features, dim=-1) @ texts.T
