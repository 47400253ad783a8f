"""Patches that another network (DINO) finds alike: ProxyCLIP's attention (Lan et al., ECCV 2024), an affinity for CAMs.

Shape letters as in pipeline/steps/dense_attention.py; N' patches of the other network.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.image import NORMALISATIONS
from clip.transformer import VisionTransformer
from pipeline.steps.dense_attention import Tokens, attend, heads_of
from pipeline.steps.tensors import computing_in

ABOVE_MEAN, SHARPNESS = 1.2, 3.0  # of the similarity: times its mean that is taken off, and the factor then


@dataclass(frozen=True)
class PatchNetwork:
    """A vision transformer of transformers.

    patch   pixels a side
    before  tokens before the patches: the class token and registers
    resizes whether it must be asked to resize its positions
    """

    network: Any
    patch: int
    before: int
    resizes: bool

    @torch.no_grad()
    def features(self, images: Tensor, grid: tuple[int, int], precision: str = "float32") -> Tensor:
        """Unit features (B, h*w, E) of a grid of patches (h, w) on images (B, 3, H, W) with CLIP's normalisation."""
        (mean, std), (own_mean, own_std) = (
            [torch.tensor(values, device=images.device).view(3, 1, 1) for values in NORMALISATIONS[name]]
            for name in ("clip", "imagenet")
        )
        pixels = (images * std + mean - own_mean) / own_std
        size = [cells * self.patch for cells in grid]
        if list(pixels.shape[-2:]) != size:
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        with computing_in(precision, images.device):
            words = {"interpolate_pos_encoding": True} if self.resizes else {}
            found = self.network(pixel_values=pixels, **words).last_hidden_state
        return F.normalize(found[:, self.before :].float(), dim=-1)


@torch.no_grad()
def alike(features: Tensor) -> Tensor:
    """Attention (B, N', N') of unit features (B, N', E): softmax of 3 (S - 1.2 mean S) over its positive entries.

    A patch always looks at itself, also where all are as similar as the mean.
    """
    similar = features @ features.transpose(-2, -1)
    sharp = SHARPNESS * (similar - ABOVE_MEAN * similar.mean(dim=(1, 2), keepdim=True))
    itself = torch.eye(similar.shape[-1], dtype=torch.bool, device=similar.device)
    return sharp.masked_fill((sharp < 0) & ~itself, float("-inf")).softmax(dim=-1)


@torch.no_grad()
def proxy_output(visual: VisionTransformer, tokens: Tokens, attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (B, N', D) that leave the last block: its values, resized to the other grid, by that attention alone.

    attention  (B, N', N') of `alike`, the same for all heads
    """
    block = visual.transformer.resblocks[-1]
    value = heads_of(block, tokens.last_input).value[:, :, 1:]  # (B, H, N, d)
    field = value.transpose(2, 3).flatten(1, 2).unflatten(2, tokens.grid)  # (B, H*d, h, w)
    field = F.interpolate(field, size=grid, mode="bilinear", align_corners=False)
    resized = field.flatten(2).unflatten(1, (value.shape[1], -1)).transpose(2, 3)
    return attend(block, attention[:, None], resized)


def both(transition: Tensor, attention: Tensor) -> Tensor:
    """CLIP's transition matrix (B, N, N) where the other network finds patches alike; rows of sum 1."""
    product = transition * attention
    return product / product.sum(dim=-1, keepdim=True).clamp(min=1e-12)
