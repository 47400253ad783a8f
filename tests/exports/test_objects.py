"""Objects and their outlines, filled again by libraries that fill polygons in different ways."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from skimage.measure import label as naive_parts

from exports.objects import Object, objects_of


def random_mask(seed: int) -> np.ndarray:
    """(H, W) bool: noise or blobs, with holes within holes, parts that touch at corners, single pixels."""
    rng = np.random.default_rng(seed)
    noise = rng.random(rng.integers(1, 40, 2))
    if seed % 2:
        noise = cv2.GaussianBlur(noise, (5, 5), 1.5)
    return noise < np.quantile(noise, (0.4, 0.6, 0.85, 1)[seed % 4])


def parts(mask: np.ndarray) -> list[Object]:
    return list(objects_of(mask.astype(np.uint8), [1]))


@pytest.mark.parametrize("seed", range(24))
def test_objects_are_the_connected_parts(seed: int) -> None:
    mask = random_mask(seed)
    expected, count = naive_parts(mask, connectivity=2, return_num=True)
    found = parts(mask)
    wanted = {(expected == index).tobytes() for index in range(1, count + 1)}
    assert {one.full(mask.shape).astype(bool).tobytes() for one in found} == wanted and len(found) == count
    assert sum(one.area for one in found) == mask.sum()


@pytest.mark.parametrize("seed", range(24))
def test_an_outline_filled_again_is_the_object(seed: int) -> None:
    mask = random_mask(seed)
    for one in parts(mask):
        full = one.full(mask.shape)
        filled = cv2.fillPoly(np.zeros_like(full), [one.outline().astype(np.int32)], 1)
        assert np.array_equal(filled, full)


@pytest.mark.parametrize("seed", range(24))
def test_edges_filled_again_are_the_object_and_have_its_area(seed: int) -> None:
    mask = random_mask(seed)
    for one in parts(mask):
        full, edges = one.full(mask.shape), one.edges()
        lengths = coco_mask.frPyObjects([edges.ravel().astype(float).tolist()], *mask.shape)
        assert np.array_equal(coco_mask.decode(coco_mask.merge(lengths)), full)
        (x, y), (x2, y2) = edges.T, np.roll(edges, -1, axis=0).T
        assert abs((x * y2 - y * x2).sum()) == 2 * one.area == 2 * full.sum()


def test_a_polygon_has_corners_only() -> None:
    mask = np.zeros((9, 12), np.uint8)
    mask[2:6, 3:10] = 1
    (one,) = objects_of(mask, [1])
    assert sorted(one.edges().tolist()) == [[3, 2], [3, 6], [10, 2], [10, 6]]
    assert sorted(one.outline().tolist()) == [[3, 2], [3, 5], [9, 2], [9, 5]]
    picture = Image.new("1", (12, 9))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in one.outline().tolist()], fill=1, outline=1)
    assert np.array_equal(picture, mask.astype(bool))


def test_only_the_classes_that_are_asked_for() -> None:
    labels = np.array([[0, 1, 1], [2, 255, 1]], np.uint8)
    assert [(one.value, one.area) for one in objects_of(labels, {1, 2, 7})] == [(1, 3), (2, 1)]
