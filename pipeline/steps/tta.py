"""Test-time augmentation by flips and scales, with ttach. Off by default, as in the reference."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import ttach
from torch import Tensor

from clip.image import scale_to_grid
from pipeline.steps.tensors import min_max

MapPair = tuple[Tensor, Tensor]


class Scale(ttach.base.DualTransform):
    """ttach's scaling for images of any size: at least one pixel is left, and `_back` gives maps their size."""

    identity_param = 1.0

    def __init__(self, scales: Sequence[float]) -> None:
        super().__init__("scale", list(dict.fromkeys([self.identity_param, *scales])))

    def apply_aug_image(self, image: Tensor, scale: float = 1.0, **_: object) -> Tensor:
        size = [max(1, round(side * scale)) for side in image.shape[-2:]]
        return image if scale == 1 else F.interpolate(image, size=size, mode="bilinear", align_corners=False)

    def apply_deaug_mask(self, mask: Tensor, **_: object) -> Tensor:
        return mask


def transforms(scales: Sequence[float], flip: bool) -> ttach.Compose:
    """The product of the scales and, with `flip`, the horizontal mirror image. Scale 1.0 is always among them."""
    return ttach.Compose([*([ttach.HorizontalFlip()] if flip else []), Scale(scales)])


def averaged(
    predict: Callable[[Tensor], list[MapPair]],
    images: Tensor,
    augment: ttach.Compose,
    patch_size: int,
    normalise: Callable[[Tensor], Tensor] = min_max,
) -> list[MapPair]:
    """Mean of the maps of all variants of a batch, min-max normalised again.

    predict    (B, 3, h'*p, w'*p) to B pairs (cam, attn) of (k_i, h', w')
    images     (B, 3, h*p, w*p)
    normalise  what becomes of the mean maps (k_i, h, w); `torch.clone` where they are not in [0, 1]
    Returns B pairs of (k_i, h, w).
    """
    grid = tuple(side // patch_size for side in images.shape[-2:])
    variants = []
    for variant in augment:
        pairs = predict(scale_to_grid(variant.augment_image(images), patch_size))
        variants.append([tuple(_back(maps, variant, grid) for maps in pair) for pair in pairs])
    return [tuple(normalise(torch.stack(maps).mean(dim=0)) for maps in zip(*same)) for same in zip(*variants)]  # type: ignore[misc]


def _back(maps: Tensor, variant: ttach.base.Transformer, grid: tuple[int, ...]) -> Tensor:
    """A variant's maps (k, h', w') in the upright image's grid, (k, h, w)."""
    if not len(maps):
        return maps.new_zeros((0, *grid))
    upright = variant.deaugment_mask(maps[None])
    return F.interpolate(upright, size=grid, mode="bilinear", align_corners=False)[0]
