"""Random views of a training image and its labels, in the published order: size, crop, colours, mirrored, padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from dataset.spec import IGNORE_INDEX
from training.colours import recoloured
from zsseg.inference import resized, resized_size

PADDING = 128  # of the image, before it is normalised


@dataclass(frozen=True)
class Views:
    """How images are varied.

    sides    of which one is drawn for the short side
    longest  the long side is not longer
    crop     of the square that is cut out, and padded to where there is less
    """

    sides: Sequence[int]
    longest: int
    crop: int
    flip: bool = True
    colours: bool = True


def view(
    image: np.ndarray, labels: np.ndarray, views: Views, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One random view: (S, S, 3) uint8 RGB, 128 where padded, and (S, S) uint8 labels, 255 there."""
    short = int(rng.choice(np.asarray(views.sides)))
    size = resized_size((labels.shape[0], labels.shape[1]), short, views.longest)
    image, labels = resized(image, short, views.longest), nearest(labels, size)
    top, left = (int(rng.integers(max(0, whole - views.crop) + 1)) for whole in size)
    cut = slice(top, top + views.crop), slice(left, left + views.crop)
    image, labels = image[cut], labels[cut]
    if views.colours:
        image = recoloured(image, rng)
    if views.flip and rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    padded = np.full((views.crop, views.crop, 3), PADDING, np.uint8)
    truth = np.full((views.crop, views.crop), IGNORE_INDEX, np.uint8)
    height, width = labels.shape
    padded[:height, :width], truth[:height, :width] = image, labels
    return padded, truth


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) labels at another size by PyTorch's rule, row i from row floor(i * H / height); PIL's is another one."""
    if labels.shape == size:
        return labels
    return F.interpolate(torch.from_numpy(labels)[None, None], size=size, mode="nearest")[0, 0].numpy()
