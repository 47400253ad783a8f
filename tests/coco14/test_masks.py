"""COCO's segmentations as masks, against a loop over pixels that knows nothing of pycocotools."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from coco14.masks import draw_mask, runs_of
from common.errors import UserError

SIZE = (24, 31)
INDICES = {1: 0, 5: 3, 90: 79}


def runs(region: np.ndarray) -> dict[str, Any]:
    """Run lengths down the columns, zeros first."""
    counts, last, length = [], 0, 0
    for value in region.T.ravel().astype(int).tolist():
        if value != last:
            counts.append(length)
            last, length = value, 0
        length += 1
    return {"size": list(region.shape), "counts": [*counts, length]}


def rectangle(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    region = np.zeros(SIZE, bool)
    region[y0:y1, x0:x1] = True
    return region


def corners(y0: int, x0: int, y1: int, x1: int) -> list[int]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def loop(objects: list[tuple[np.ndarray, int]], crowds: list[np.ndarray]) -> np.ndarray:
    """Pixel by pixel: the smallest object there (the later of two as small), else 255 in a crowd, else 0."""
    mask = np.zeros(SIZE, np.uint8)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            there = [
                (int(region.sum()), -number, value) for number, (region, value) in enumerate(objects) if region[y, x]
            ]
            if there:
                mask[y, x] = min(there)[2]
            elif any(crowd[y, x] for crowd in crowds):
                mask[y, x] = 255
    return mask


def test_holes_crowds_and_overlaps_as_a_loop_over_pixels() -> None:
    ring = rectangle(2, 2, 20, 20) & ~rectangle(6, 6, 14, 12)
    crowd, other_crowd = rectangle(0, 10, 24, 31) & ~rectangle(3, 25, 9, 29), rectangle(18, 0, 24, 8)
    big, small = (1, 1, 22, 18), (4, 4, 10, 9)
    two_parts = [corners(15, 20, 18, 24), corners(20, 26, 23, 30)]
    compressed = rle.encode(np.asfortranarray(other_crowd.astype(np.uint8)))
    annotations = [
        {"id": 1, "category_id": 90, "iscrowd": 1, "segmentation": runs(crowd)},
        {"id": 2, "category_id": 5, "iscrowd": 0, "segmentation": [corners(*small)]},
        {"id": 3, "category_id": 90, "iscrowd": 0, "segmentation": runs(ring)},
        {"id": 4, "category_id": 1, "segmentation": [corners(*big)]},
        {"id": 5, "category_id": 5, "iscrowd": 0, "segmentation": two_parts},
        {
            "id": 6,
            "category_id": 1,
            "iscrowd": 1,
            "segmentation": {**compressed, "counts": compressed["counts"].decode()},
        },
    ]
    parts = rectangle(15, 20, 18, 24) | rectangle(20, 26, 23, 30)
    objects = [(rectangle(*small), 4), (ring, 80), (rectangle(*big), 1), (parts, 4)]
    wanted = loop(objects, [crowd, other_crowd])
    assert set(np.unique(wanted)) == {0, 1, 4, 80, 255}
    np.testing.assert_array_equal(draw_mask(SIZE, annotations, INDICES, "here"), wanted)


def test_of_two_as_large_the_later_is_seen() -> None:
    items = [{"category_id": key, "segmentation": [corners(0, 0, 4, 4)]} for key in (1, 5)]
    assert draw_mask(SIZE, items, INDICES, "here")[0, 0] == 4


def test_compressed_run_lengths_are_read_as_pycocotools_writes_them() -> None:
    rng = np.random.default_rng(1)
    for shape in ((1, 1), *rng.integers(1, 60, (50, 2)).tolist()):
        region = rng.random(shape) < rng.random()
        compressed = rle.encode(np.asfortranarray(region.astype(np.uint8)))
        text = {"size": list(shape), "counts": compressed["counts"].decode()}
        assert np.array_equal(rle.decode(runs_of(text, tuple(shape), "here")), region)
        if region.size > 1:
            with pytest.raises(UserError, match="run lengths of another size"):
                runs_of({**text, "size": [shape[0] + 1, shape[1]]}, (shape[0] + 1, shape[1]), "here")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation; expected polygons or run lengths"),
        ({"size": [24, 31]}, "no segmentation"),
        ({"size": [24, 31], "counts": [744.0]}, "no segmentation"),
        ({"size": [24, 31], "counts": [-1, 745]}, "no segmentation"),
        ({"size": [24, 31], "counts": "\x00zz"}, "run lengths of another size"),
        ({"size": [24, 31], "counts": "oooooooooooo"}, "run lengths of another size"),
        ({"size": [24, 31], "counts": [700]}, "run lengths of another size than the image 31 x 24"),
        ({"size": [31, 24], "counts": [744]}, "run lengths of another size"),
        ({"size": [24, 31], "counts": [10**30]}, "run lengths of another size"),
        ([[1, 1, 5, 5]], "a damaged polygon"),
        ([[1, 1, 5, 5, 3]], "a damaged polygon"),
        (["1 1 5 5 3 3"], "a damaged polygon"),
        ([[1, 1, 5, 5, 3, 1e9]], "a corner far outside"),
        ([[1, 1, 5, 5, 3, float("nan")]], "a corner far outside"),
        ([[1, 1, 5, 5, 3, None]], "a corner far outside"),
    ],
)
def test_damaged_segmentations(segmentation: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        runs_of(segmentation, SIZE, "here")


def test_no_polygons_is_nothing() -> None:
    assert not rle.decode(runs_of([], SIZE, "here")).any()


@pytest.mark.parametrize("size", [(0, 0), (-3, 4), (1 << 20, 1 << 20)])
def test_sizes_that_cannot_be(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="no usable `height` and `width`"):
        draw_mask(size, [], {}, "here")
