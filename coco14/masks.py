"""COCO's segmentations as VOC-style masks.

pycocotools trusts its input, so that every segmentation is checked before it is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle  # type: ignore[import-untyped]

from common.errors import UserError
from dataset.spec import IGNORE_INDEX

MAX_PIXELS = 1 << 27  # of an image


def draw_mask(
    size: tuple[int, int], annotations: Sequence[Mapping[str, Any]], indices: Mapping[int, int], where: str
) -> np.ndarray:
    """(H, W) uint8: class index + 1, background 0; of several objects at a pixel the smallest is seen.

    Crowd regions (`iscrowd`) become 255 where no object lies. Objects of the same size: the later one is seen.
    Raises UserError, beginning with `where`, for a segmentation that is no polygon or run lengths of this size.
    """
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"{where}: no usable `height` and `width`; expected those of the image")
    mask = np.zeros(size, np.uint8)
    objects = []
    for number, item in enumerate(annotations):
        runs = runs_of(item.get("segmentation"), size, f"{where}, annotation {item.get('id', number)!a:.60}")
        if item.get("iscrowd"):
            mask[drawn(runs)] = IGNORE_INDEX
        else:
            objects.append((runs, indices[item["category_id"]] + 1))
    for runs, value in sorted(objects, key=lambda kept: -int(rle.area(kept[0]))):
        mask[drawn(runs)] = value  # one at a time: all of them may not fit into memory
    return mask


def drawn(runs: Mapping[str, Any]) -> np.ndarray:
    """(H, W) bool of pycocotools' run lengths."""
    return rle.decode(runs).view(bool)


def runs_of(segmentation: Any, size: tuple[int, int], where: str) -> dict[str, Any]:
    """pycocotools' run lengths of polygons (their union), of run lengths, or of compressed run lengths."""
    height, width = size
    if segmentation == []:
        segmentation = {"size": [height, width], "counts": [height * width]}
    if isinstance(segmentation, list):
        polygons = [_polygon(points, size, where) for points in segmentation]
        return rle.merge(rle.frPyObjects(polygons, height, width))
    runs = {"size": [height, width], "counts": _counts(segmentation, size, where)}
    return rle.frPyObjects(runs, height, width)


def _polygon(points: Any, size: tuple[int, int], where: str) -> list[float]:
    """x0, y0, x1, y1, ... of at least three corners, not farther outside than the image is large."""
    reach = 2 * max(size)
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        raise UserError(f"{where}: a damaged polygon; expected x, y, x, y, ... of 3 corners or more")
    numbers = all(type(value) in (int, float) for value in points)
    if not numbers or not all(abs(value) <= reach for value in points):  # false for NaN too
        raise UserError(f"{where}: a polygon with a corner far outside of the image {size[1]} x {size[0]}")
    return [float(value) for value in points]


def _counts(segmentation: Any, size: tuple[int, int], where: str) -> list[int]:
    """Run lengths, zeros first, down the columns; exactly as many pixels as the image has."""
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if isinstance(counts, str):
        counts = uncompressed(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise UserError(f"{where}: no segmentation; expected polygons or run lengths (counts, size)")
    if segmentation.get("size") != list(size) or sum(counts) != size[0] * size[1]:
        raise UserError(f"{where}: run lengths of another size than the image {size[1]} x {size[0]}")
    return counts


def uncompressed(text: str) -> list[int] | None:
    """COCO's compressed run lengths as numbers, None when they are damaged.

    Six bits a character from code 48 on: five of the number, lowest first, and whether more follow; the sign is in
    the last. From the fourth number on, the difference to the one two before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts
