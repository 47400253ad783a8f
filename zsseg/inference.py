"""A photo through a MaskFormer: how it is resized, and the masks and classes of the queries (docs/zsseg.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zsseg.maskformer import DIVISOR, MaskFormer

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of RGB in 0..255


@dataclass(frozen=True)
class Queries:
    """What a network finds in a photo of (H, W).

    logits         (Q, h, w) float32 of the masks, on a quarter of the padded photo's grid
    probabilities  (Q, C) float32 of the classes; what is left to 1 is "no object"
    size, padded   (H, W) of the photo, and of it with its padding
    """

    logits: Tensor
    probabilities: Tensor
    size: tuple[int, int]
    padded: tuple[int, int]

    def masks(self) -> Tensor:
        """(Q, H, W) float32 in [0, 1]."""
        whole = F.interpolate(self.logits[None], size=self.padded, mode="bilinear", align_corners=False)[0]
        return whole[:, : self.size[0], : self.size[1]].sigmoid()


def resized_size(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """(H, W) with the short side given, or the long side `longest` where it would be longer; halves are rounded up."""
    height, width = (side * (short / min(size)) for side in size)
    if max(height, width) > longest:
        height, width = (side * (longest / max(height, width)) for side in (height, width))
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def resized(image: np.ndarray, short: int, longest: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, bilinear with antialiasing."""
    height, width = resized_size((image.shape[0], image.shape[1]), short, longest)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def network_input(images: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Tensor:
    """Photos (H, W, 3) uint8 RGB as one (B, 3, H', W') normalised tensor, padded with 0 at the right and below.

    The sides are those of the largest, rounded up to a multiple of DIVISOR.
    """
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    height, width = height + -height % DIVISOR, width + -width % DIVISOR
    batch = torch.zeros(len(images), 3, height, width, device=device)
    for row, image in zip(batch, images):
        row[:, : image.shape[0], : image.shape[1]] = normalised(torch.tensor(image, device=device).permute(2, 0, 1))
    return batch


def normalised(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 RGB as float32 with ImageNet's mean and deviation."""
    mean, deviation = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (images.float() - mean) / deviation


@torch.no_grad()
def find_queries(network: MaskFormer, image: np.ndarray, text: Tensor, mirrored: bool = False) -> Queries:
    """The queries' masks and classes in a resized photo (H, W, 3) uint8 RGB.

    text      (C, D) unit embeddings of the classes, on the network's device
    mirrored  the network sees the padded photo mirrored; its masks are mirrored back
    """
    images = network_input([image], text.device)
    found = network(images.flip(-1) if mirrored else images, text)
    probabilities = found.class_logits[-1, 0].float().softmax(dim=-1)[:, :-1]
    size, padded = (image.shape[0], image.shape[1]), (images.shape[-2], images.shape[-1])
    logits = found.mask_logits[-1, 0].float()
    return Queries(logits.flip(-1) if mirrored else logits, probabilities, size, padded)


def on_grid(found: Queries, like: Queries) -> Tensor:
    """Mask logits (Q, h, w) of a photo at the places where those of the same photo at another size lie; bilinear."""
    if (found.size, found.padded) == (like.size, like.padded):
        return found.logits
    y, x = (
        padded / side * own / own_padded
        for padded, side, own, own_padded in zip(like.padded, like.size, found.size, found.padded)
    )
    places = F.affine_grid(
        found.logits.new_tensor([[[x, 0, x - 1], [0, y, y - 1]]]), [1, 1, *like.logits.shape[-2:]], align_corners=False
    )
    return F.grid_sample(found.logits[None], places, padding_mode="border", align_corners=False)[0]


def labels_at(scores: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(C, h, w) scores of a resized photo to the best class at its own size, (H, W) uint8; ties go to the first."""
    enlarged = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    return enlarged.argmax(dim=0).to(torch.uint8).cpu().numpy()
