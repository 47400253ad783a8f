"""Random views of a training image and its labels.

Images are (H, W, 3) uint8 RGB, labels (H, W) uint8 with 255 to ignore; all chance comes from the generator given.
Labels are hidden before a view is chosen, which looks at them; what is hidden counts as one label there, as published.
"""

from collections.abc import Collection

import cv2
import numpy as np

from segmentor.settings import Views
from training.colours import recoloured

IGNORE = 255
HIDDEN = 254  # a label that is there but must not be known; it is to be found in another way
TRIES = 10
MOST_OF_ONE = 0.75  # a crop in which one label has a larger share is drawn again
NORMALISATIONS = {  # mean and standard deviation of RGB in 0..255
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "clip": ((122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)),
}


def view(
    image: np.ndarray, labels: np.ndarray, views: Views, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One random view: (3, S, S) float32 normalised image, 0 where padded, and (S, S) int64 labels, 255 there."""
    size = fitted((labels.shape[0], labels.shape[1]), views.resize, rng.uniform(*views.scales))
    if size != labels.shape:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    image, labels = cropped(image, labels, views.crop, rng)
    if views.flip and rng.random() < 0.5:
        image, labels = image[:, ::-1].copy(), labels[:, ::-1].copy()  # OpenCV and PyTorch want them so
    if views.colours:
        image = recoloured(image, rng)
    padded = np.zeros((3, views.crop, views.crop), np.float32)
    truth = np.full((views.crop, views.crop), IGNORE, np.int64)
    height, width = labels.shape
    padded[:, :height, :width], truth[:height, :width] = normalised(image, views.normalisation), labels
    return padded, truth


def fitted(size: tuple[int, int], box: tuple[int, int] | None, factor: float) -> tuple[int, int]:
    """(H, W) after fitting into the box of (long, short) sides times the factor; aspect kept, halves rounded up."""
    if box is not None:
        long, short = (side * factor for side in box)
        factor = min(long / max(size), short / min(size))
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def hide(labels: np.ndarray, hidden: Collection[int]) -> np.ndarray:
    """(H, W) uint8 labels with HIDDEN in place of those that are to be hidden."""
    table = np.arange(IGNORE + 1, dtype=np.uint8)
    table[list(hidden)] = HIDDEN
    return table[labels]


def cropped(
    image: np.ndarray, labels: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random square, or as much of it as there is; drawn again, up to 10 times, where one label has most of it."""
    for _ in range(TRIES):
        top, left = (int(rng.integers(max(0, whole - side) + 1)) for whole in labels.shape)
        part = labels[top : top + side, left : left + side]
        if mixed(part):
            break
    return image[top : top + side, left : left + side], part


def mixed(labels: np.ndarray) -> bool:
    """Whether there are several labels, none with MOST_OF_ONE of the pixels or more; 255 is no label."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return bool((counts > 0).sum() > 1 and counts.max() < MOST_OF_ONE * counts.sum())


def normalised(image: np.ndarray, normalisation: str) -> np.ndarray:
    """(H, W, 3) uint8 to (3, H, W) float32 with the mean and deviation of NORMALISATIONS."""
    mean, deviation = (np.array(values, np.float32) for values in NORMALISATIONS[normalisation])
    return ((image.astype(np.float32) - mean) / deviation).transpose(2, 0, 1)
