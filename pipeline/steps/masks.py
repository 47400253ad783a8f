"""Step 4: from probabilities to the masks that a segmentation network trains on (CLIP-ES, section 3.3)."""

import cv2
import numpy as np

from dataset.spec import IGNORE_INDEX
from pipeline.steps.kinds import BOUNDLESS, sharpened, to_probabilities

CONFIDENCE = 0.95  # below, a pixel is not trained on (paper, section 3.3, confidence-guided loss)


def with_background(maps: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """(k, H, W) in [0, 1] to (k+1, H, W), the background score (1 - max_c cam)^exponent first (docs/methods.md 1.5)."""
    highest = maps.max(axis=0) if len(maps) else np.zeros(maps.shape[1:], maps.dtype)
    return np.concatenate([((1 - highest) ** exponent)[None], maps])


def contest(maps: np.ndarray, kind: str = "cam", has_background: bool = True, sharp: bool = False) -> np.ndarray:
    """Maps (k, H, W) of one of kinds.KINDS to the scores that compete for a pixel, the background's first.

    (k+1, H, W), or (k, H, W) in a data set without background class.

    sharp  of the kind "score", give probabilities that are far apart, for the CRF
    """
    maps = sharpened(maps, kind) if sharp else maps
    if kind != "cam":
        return to_probabilities(maps, kind, has_background)
    return with_background(maps) if has_background else maps


def labels_of(scores: np.ndarray, keys: np.ndarray, has_background: bool = True) -> np.ndarray:
    """(k+1, H, W) scores, background first, to (H, W) uint8 labels: class index + 1, background 0.

    Without background (k, H, W) scores, and the class indices are the labels; 255 everywhere where there is no class.
    """
    if not len(scores):
        return np.full(scores.shape[1:], IGNORE_INDEX, np.uint8)
    return mask_values(keys, has_background)[scores.argmax(axis=0)]


def mask_values(keys: np.ndarray, has_background: bool = True) -> np.ndarray:
    """The mask values (k+1,) uint8 of scores whose classes are `keys`: 0 for the background, class index + 1.

    Without background (k,): the class indices. No other place makes mask values of classes.
    """
    values = np.concatenate([[0], np.asarray(keys, np.int64) + 1]) if has_background else np.asarray(keys, np.int64)
    return values.astype(np.uint8)


def labels_at(
    maps: np.ndarray, kind: str, keys: np.ndarray, size: tuple[int, int], has_background: bool = True
) -> np.ndarray:
    """The labels (H, W) uint8 of maps (k, h, w) at another size: the maps are scaled, class by class."""
    if kind in BOUNDLESS and len(maps):
        planes = np.concatenate([np.zeros_like(maps[:1]), maps]) if has_background else maps
    else:
        planes = contest(maps, kind, has_background)
    return smooth_labels(planes, keys, size, has_background)[0]


def confident(labels: np.ndarray, probabilities: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """The labels, with 255 where the highest of the (k+1, H, W) probabilities lies below `confidence`."""
    return np.where(probabilities.max(axis=0) < confidence, np.uint8(IGNORE_INDEX), labels)


def mean_confidence(labels: np.ndarray, probabilities: np.ndarray) -> dict[int, float]:
    """By mask value, the mean of the highest probability over its pixels, before any of them becomes 255.

    labels         (H, W) uint8 of `labels_of`
    probabilities  (k+1, H, W), or (k, H, W) without background
    """
    if not len(probabilities):
        return {}
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=probabilities.max(axis=0).ravel())
    return {int(value): float(sums[value] / counts[value]) for value in np.flatnonzero(counts)}


def smooth_labels(
    probabilities: np.ndarray, keys: np.ndarray, size: tuple[int, int], has_background: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """`labels_of` at a larger size: probabilities are scaled up before each pixel takes its best class.

    probabilities  (k+1, H', W'), or (k, H', W') without background
    Returns labels (H, W) uint8 and the highest probability (H, W) float32. Bilinear, so that borders are smooth; one
    class at a time, so that a large photo with many classes fits into memory.
    """
    values = mask_values(keys, has_background)
    labels, highest = np.full(size, IGNORE_INDEX, np.uint8), np.full(size, -np.inf, np.float32)
    for value, plane in zip(values, probabilities):
        if plane.shape != size:
            plane = cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
        labels[plane > highest] = value
        np.maximum(highest, plane, out=highest)
    return labels, highest
