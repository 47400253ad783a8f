"""What a scene promises: every labelled object is seen, everything occurs, masks agree with the paint."""

import numpy as np
import pytest

from toyworld.objects import DESIGNS
from toyworld.paint import folded, oval, part, render
from toyworld.scenes import MIN_VISIBLE_PIXELS, draw_scene
from toyworld.spec import BACKGROUNDS, CLASSES


@pytest.fixture(scope="module")
def scenes() -> list:
    return [draw_scene(1, index) for index in range(60)]


def test_every_class_background_and_count_occurs(scenes: list) -> None:
    assert {name for scene in scenes for name in scene.classes} == set(CLASSES) == set(DESIGNS)
    assert {name for scene in scenes for name in scene.backgrounds} == set(BACKGROUNDS)
    assert {len(scene.classes) for scene in scenes} == {1, 2, 3}


def test_labels_are_what_is_visible(scenes: list) -> None:
    for scene in scenes:
        labels, pixels = np.unique(scene.mask, return_counts=True)
        assert set(labels) == {0, *(CLASSES.index(name) + 1 for name in scene.classes)}
        assert pixels.min() >= MIN_VISIBLE_PIXELS


def test_images_and_masks_have_one_size_within_the_style(scenes: list) -> None:
    for scene in scenes:
        height, width = scene.mask.shape
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == scene.mask.dtype == np.uint8
        assert 144 <= height <= 256 and 144 <= width <= 256 and height % 16 and width % 16
    assert len({scene.mask.shape for scene in scenes}) > 20


def test_some_objects_hide_parts_of_others(scenes: list) -> None:
    """In some scene the labels of two objects touch."""

    def touching(mask: np.ndarray) -> bool:
        left, right = mask[:, :-1], mask[:, 1:]
        return bool(((left != right) & (left > 0) & (right > 0)).any())

    assert sum(touching(scene.mask) for scene in scenes) >= 5


def test_render_covers_exactly_the_polygon() -> None:
    """A rectangle on pixel borders: whole pixels, whole colour, nothing beside it."""
    square = part((200, 100, 50), (-1, -1), (1, -1), (1, 1), (-1, 1))
    colour, share = render([square], np.array([[4.0, 0, 6.0], [0, 3.0, 5.0]]), 12, 14)
    assert (share[2:8, 2:10] == 1).all() and np.allclose(colour[2:8, 2:10], (200, 100, 50))
    share[1:9, 1:11] = 0  # cv2 draws the outline too, up to a third of a pixel further
    assert not share.any()


def test_folds_tile_the_outline() -> None:
    outline = oval(0, 0, 0.8, 0.5, 7)
    pieces = folded(outline, (0.1, 0.0), (100, 100, 100))

    def area(points: np.ndarray) -> float:
        x, y = points.T
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

    assert sum(area(piece.outline) for piece in pieces) == pytest.approx(area(outline), rel=1e-5)
    assert len({piece.colour for piece in pieces}) > 1
