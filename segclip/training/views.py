"""How a training image is looked at: its stored form, and a random crop of it."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segclip.training.superpixels import Corners

ASPECTS = (3 / 4, 4 / 3)  # of a crop
TRIES = 10  # to place one


@dataclass(frozen=True)
class Crop:
    """A part of an image in pixels."""

    top: int
    left: int
    height: int
    width: int

    def corners(self, size: tuple[int, int]) -> Corners:
        """Its first and last pixel, as shares of the way to the last pixel of an image of size (H, W); float32."""
        down, right = (max(1, length - 1) for length in size)
        first = (self.left / right, self.top / down)
        last = ((self.left + self.width - 1) / right, (self.top + self.height - 1) / down)
        return tuple(np.array([*first, *last], np.float32).tolist())


def stored(image: Image.Image, side: int) -> Image.Image:
    """The image in the size that is stored: larger ones are resized to a shorter side of `side` (Lanczos).

    The longer side is rounded down. An image with a side of at most `side` stays as it is.
    """
    if min(image.size) <= side:
        return image
    width, height = image.size
    size = (side, int(side * (height / width))) if width < height else (int(side * (width / height)), side)
    return image.resize(size, Image.Resampling.LANCZOS)


def random_crop(rng: np.random.Generator, size: tuple[int, int], areas: tuple[float, float]) -> Crop:
    """A part of an image of size (H, W) with a random share of its area and a random aspect, at a random place.

    Areas are uniform and the logarithms of aspects too. After ten parts that do not fit, the largest part in the middle
    whose aspect is allowed (torchvision's RandomResizedCrop).
    """
    height, width = size
    for _ in range(TRIES):
        area = height * width * rng.uniform(*areas)
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            top, left = int(rng.integers(0, height - down + 1)), int(rng.integers(0, width - across + 1))
            return Crop(top, left, down, across)
    aspect = min(max(width / height, ASPECTS[0]), ASPECTS[1])
    across, down = min(width, round(height * aspect)), min(height, round(width / aspect))
    return Crop((height - down) // 2, (width - across) // 2, down, across)


def cut_out(image: Image.Image, crop: Crop, side: int) -> np.ndarray:
    """(side, side, 3) uint8 of a crop, resized bicubically."""
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    return np.array(image.crop(box).resize((side, side), Image.Resampling.BICUBIC))
