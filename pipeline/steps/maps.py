"""The CAMs of an image, and the operations on maps that several of them share; without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pipeline.steps.regions import RegionMaps

STRIP_VALUES = 1 << 24  # of maps that are held at full size together; 64 MB


@dataclass(frozen=True)
class Cams:
    """The class activation maps of one image, on the patch grid or as regions.

    keys    (k,) int64, 0-based class indices, background not among them
    cam     (k, h, w) float32, before the affinity; in [0, 1] unless the method gives logits
    attn    (k, h, w) float32, after it; regions know no affinity, and both are the same
    size    (H, W) of the image in pixels
    groups  (h, w) uint8, the group of each place, where a method makes some and they are kept
    """

    keys: np.ndarray
    cam: np.ndarray | RegionMaps
    attn: np.ndarray | RegionMaps
    size: tuple[int, int]
    groups: np.ndarray | None = None


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(k, h, w) float32 to (k, H, W) float32, bilinear by OpenCV's pixel-centre convention."""
    return _resized(maps, size, cv2.INTER_LINEAR)


def shrink_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(k, H, W) of any floating dtype to smaller (k, H', W') float32: means of the areas that the pixels cover."""
    return _resized(maps, size, cv2.INTER_AREA)


def _resized(maps: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    height, width = size
    resized = np.empty((len(maps), height, width), np.float32)
    for target, source in zip(resized, maps):
        target[...] = cv2.resize(source.astype(np.float32), (width, height), interpolation=interpolation)
    return resized


def resized_rows(maps: np.ndarray, size: tuple[int, int], rows: slice, top: int = 0, height: int = 0) -> np.ndarray:
    """Rows of what `resize_maps` gives for the same maps and size, (k, rows, W) float32, to a rounding error.

    top, height  where `maps` are only the rows from `top` on, at least those of `rows_below`, of maps of `height`
    For images whose maps at full size would take too much memory.
    """
    lower, upper, weight = _neighbours(height or maps.shape[1], size[0], rows)
    left, right, across = _neighbours(maps.shape[2], size[1], slice(0, size[1]))
    result = np.empty((len(maps), len(lower), size[1]), np.float32)
    for index in range(len(maps)):
        source = maps[index].astype(np.float32)
        wide = source[:, left] * (1 - across) + source[:, right] * across  # (h, W)
        result[index] = wide[lower - top] * (1 - weight[:, None]) + wide[upper - top] * weight[:, None]
    return result


def rows_below(count: int, length: int, rows: slice) -> slice:
    """The rows among `count` that some of `length` rows are interpolated from."""
    lower, upper, _ = _neighbours(count, length, rows)
    return slice(int(lower[0]), int(upper[-1]) + 1)


def _neighbours(count: int, length: int, places: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of some of `length` pixel centres: the samples before and after it among `count`, and the latter's
    weight, float32."""
    place = ((np.arange(places.start, places.stop) + 0.5) * (count / length) - 0.5).clip(0, count - 1)
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, count - 1), (place - before).astype(np.float32)


def strips(size: tuple[int, int], planes: int, values: int = STRIP_VALUES) -> Iterator[slice]:
    """The rows of (planes, H, W) in strips of at most `values` values, or of one row; all at once where that fits."""
    height, width = size
    rows = max(1, values // (max(1, planes) * width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def enlarge_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., H', W') to (..., H, W) by nearest neighbour, for labels and for what must go with them; any dtype."""
    if labels.shape[-2:] == size:
        return labels
    height, width = labels.shape[-2:]
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, (height, width)))
    return labels[..., rows, :][..., columns]
