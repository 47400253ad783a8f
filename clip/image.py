"""From an image to the tensor the vision transformer takes.

Without torchvision, whose import takes as long as torch's own.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# The normalisation OpenAI's CLIP was trained with, RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
NORMALISATIONS = {
    "clip": (MEAN, STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,) * 3, (0.5,) * 3),  # SAM 3's
}


@dataclass(frozen=True)
class Preparation:
    """How a method wants its images. The defaults are CLIP-ES's.

    fit            "stretch": resized up to the next multiple of the patch size;
                   "pad": its size is kept, and zeros are added below and to the right once it is normalised;
                   "square": resized to frame[0] x frame[0] (up to the next multiple), whatever its aspect;
                   "exact": scaled into the frame by OpenCV, bilinearly without antialiasing, as mmsegmentation does;
                   not filled up to whole patches, which is for methods that cut it into windows
    frame          (long, short): first scaled, up or down, until it just fits into these sides; (): as it is
    normalisation  one of NORMALISATIONS
    """

    fit: str = "stretch"
    frame: tuple[int, ...] = ()
    normalisation: str = "clip"

    def size(self, size: tuple[int, int], max_side: int | None = None) -> tuple[float, float]:
        """The sides an image of (H, W) pixels is scaled to before it meets the patch grid."""
        if self.fit == "square":
            height = width = float(self.frame[0])
        else:
            height, width = framed(size, self.frame) if self.frame else size
        bounded = self.fit == "exact" and self.frame  # by its frame, and windows take no more memory
        shrink = 1.0 if max_side is None or bounded else min(1.0, max_side / max(height, width))
        return round(height * shrink, 6), round(width * shrink, 6)


AS_CLIP_ES = Preparation()


def framed(size: tuple[int, int], frame: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) scaled, aspect kept, to the largest that fits into (long, short), as mmcv rounds."""
    factor = min(max(frame) / max(size), min(frame) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def patch_grid(
    size: tuple[int, int], patch_size: int, max_side: int | None = None, preparation: Preparation = AS_CLIP_ES
) -> tuple[int, int]:
    """(h, w) = (ceil(H/p), ceil(W/p)) for an image of size (H, W) pixels; pixels, where its fit is "exact".

    max_side  an image with a longer side counts as shrunk to it: attention takes memory with the square of h*w
    """
    if preparation.fit == "exact":
        patch_size = 1
    return tuple(max(1, ceil(side / patch_size)) for side in preparation.size(size, max_side))  # type: ignore[return-value]


def prepare_image(
    image: Image.Image, patch_size: int, max_side: int | None = None, preparation: Preparation = AS_CLIP_ES
) -> Tensor:
    """RGB image of any size to (3, h*p, w*p) float32, normalised.

    Resized bicubically with antialiasing, as PIL does; (3, H', W') by OpenCV, where its fit is "exact".
    """
    size = (image.height, image.width)
    if preparation.fit == "exact":
        import cv2

        height, width = patch_grid(size, patch_size, max_side, preparation)
        return normalised(cv2.resize(np.array(image), (width, height), interpolation=cv2.INTER_LINEAR), preparation)
    height, width = (cells * patch_size for cells in patch_grid(size, patch_size, max_side, preparation))
    scaled = (
        [height, width]
        if preparation.fit != "pad"
        else [max(1, round(side)) for side in preparation.size(size, max_side)]
    )
    resized = image.resize((scaled[1], scaled[0]), Image.Resampling.BICUBIC)
    tensor = normalised(np.array(resized), preparation)
    return torch.nn.functional.pad(tensor, (0, width - scaled[1], 0, height - scaled[0]))


def normalised(rgb: np.ndarray, preparation: Preparation = AS_CLIP_ES) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32."""
    pixels = torch.from_numpy(rgb).permute(2, 0, 1).contiguous().float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[preparation.normalisation])
    return (pixels - mean) / std


def scale_to_grid(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) to the nearest size that is a whole number of patches, at least one, bicubically."""
    size = [max(1, round(side / patch_size)) * patch_size for side in images.shape[-2:]]
    if list(images.shape[-2:]) == size:
        return images
    return torch.nn.functional.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
