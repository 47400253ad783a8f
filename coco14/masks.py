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
    """(H, W) uint8: class index + 1, background 0; where objects overlap, the smallest is on top.

    Crowd regions (`iscrowd`) become 255 where no object lies. Of objects of the same size the later one is on top.
    Raises UserError, beginning with `where`, for a segmentation that is no polygon or run lengths of this size.
    """
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"{where}: no usable `height` and `width`; expected those of the image")
    mask = np.zeros(size, np.uint8)
    objects = []
    for number, item in enumerate(annotations):
        runs = runs_of(item.get("segmentation"), size, f"{where}, annotation {item.get('id', number)!a:.60}")
        if item.get("iscrowd"):
            mask[rle.decode(runs).view(bool)] = IGNORE_INDEX
        else:
            objects.append((runs, indices[item["category_id"]] + 1))
    for runs, value in sorted(objects, key=lambda item: -int(rle.area(item[0]))):
        mask[rle.decode(runs).view(bool)] = value  # one at a time: all of them may not fit into memory
    return mask


def runs_of(segmentation: Any, size: tuple[int, int], where: str) -> dict[str, Any]:
    """pycocotools' run lengths of polygons (their union), of run lengths, or of compressed run lengths."""
    height, width = size
    if segmentation == []:
        segmentation = {"size": [height, width], "counts": [height * width]}
    if isinstance(segmentation, list):
        polygons = [_polygon(points, size, where) for points in segmentation]
        return rle.merge(rle.frPyObjects(polygons, height, width))
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if isinstance(counts, str):
        runs = {"size": [height, width], "counts": counts.encode()}
        fills = _fills(runs, height * width)
    elif isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts):
        runs = {"size": [height, width], "counts": counts}
        fills = sum(counts) == height * width
    else:
        raise UserError(f"{where}: no segmentation; expected polygons or run lengths (counts, size)")
    if not fills or segmentation.get("size") != [height, width]:
        raise UserError(f"{where}: run lengths of another size than the image {width} x {height}")
    return runs if isinstance(counts, str) else rle.frPyObjects(runs, height, width)


def _fills(runs: Mapping[str, Any], pixels: int) -> bool:
    """Whether compressed run lengths have exactly so many pixels: they fit, and are too long for one pixel less.

    pycocotools refuses run lengths that are too long. Where they are too short, it leaves the rest undefined.
    """
    try:
        rle.decode(runs)
    except ValueError:
        return False
    try:
        rle.decode({**runs, "size": [pixels - 1, 1]})
    except ValueError:
        return True
    return False


def _polygon(points: Any, size: tuple[int, int], where: str) -> list[float]:
    """x0, y0, x1, y1, ... of at least three corners, not farther outside than the image is large."""
    reach = 2 * max(size)
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        raise UserError(f"{where}: a damaged polygon; expected x, y, x, y, ... of 3 corners or more")
    numbers = all(type(value) in (int, float) for value in points)
    if not numbers or not all(abs(value) <= reach for value in points):  # false for NaN too
        raise UserError(f"{where}: a polygon with a corner far outside of the image {size[1]} x {size[0]}")
    return [float(value) for value in points]
