"""From an image to the tensor the vision transformer takes. May import torch, torchvision and PIL only."""

from math import ceil

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

# The normalisation OpenAI's CLIP was trained with, RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def patch_grid(size: tuple[int, int], patch_size: int, max_side: int | None = None) -> tuple[int, int]:
    """(h, w) = (ceil(H/p), ceil(W/p)) for an image of size (H, W) pixels.

    max_side  an image with a longer side counts as shrunk to it: attention takes memory with the square of h*w
    """
    shrink = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return tuple(max(1, ceil(round(side * shrink, 6) / patch_size)) for side in size)  # type: ignore[return-value]


def prepare_image(image: Image.Image, patch_size: int, max_side: int | None = None) -> Tensor:
    """RGB image of any size to (3, h*p, w*p) float32, normalised (clip_es section 1).

    Resized bicubically with antialiasing, as PIL does, up to the next multiple of the patch size.
    """
    height, width = patch_grid((image.height, image.width), patch_size, max_side)
    resized = TF.resize(image, [height * patch_size, width * patch_size], InterpolationMode.BICUBIC)
    return TF.normalize(TF.to_tensor(resized), list(MEAN), list(STD))


def scale_to_grid(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) to the nearest size that is a whole number of patches, at least one, bicubically."""
    size = [max(1, round(side / patch_size)) * patch_size for side in images.shape[-2:]]
    if list(images.shape[-2:]) == size:
        return images
    return torch.nn.functional.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
