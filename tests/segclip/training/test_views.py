"""Stored images and random crops."""

import numpy as np
from PIL import Image

from segclip.training.views import Crop, cut_out, random_crop, stored


def test_only_images_with_both_sides_longer_are_stored_smaller() -> None:
    sizes = {(500, 375): (298, 224), (375, 500): (224, 298), (224, 900): (224, 900), (100, 300): (100, 300)}
    for size, wanted in {**sizes, (640, 480): (298, 224), (300, 300): (224, 224), (225, 228): (224, 226)}.items():
        assert stored(Image.new("RGB", size), 224).size == wanted


def test_crops_lie_inside_and_have_the_areas_and_aspects_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    crops = [random_crop(rng, (200, 300), (0.5, 1.0)) for _ in range(2000)]
    for crop in crops:
        assert crop.top >= 0 and crop.left >= 0
        assert crop.top + crop.height <= 200 and crop.left + crop.width <= 300
        assert 0.49 < crop.height * crop.width / 60_000 <= 1 and 0.74 < crop.width / crop.height < 1.35
    assert {crop.top == 0 for crop in crops} == {True, False} and max(crop.left for crop in crops) > 60


def test_an_image_that_no_crop_fits_into_is_cut_in_the_middle() -> None:
    assert random_crop(np.random.default_rng(0), (20, 400), (0.9, 1.0)) == Crop(0, 186, 20, 27)
    assert random_crop(np.random.default_rng(0), (400, 20), (0.9, 1.0)) == Crop(186, 0, 27, 20)


def test_corners_are_the_first_and_the_last_pixel() -> None:
    assert Crop(0, 0, 5, 9).corners((5, 9)) == (0, 0, 1, 1)
    left, top, right, bottom = np.float32(Crop(1, 2, 3, 4).corners((11, 21))).tolist()
    assert np.allclose([left, top, right, bottom], [2 / 20, 1 / 10, 5 / 20, 3 / 10])


def test_a_cut_out_part_shows_what_is_there() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 30:50] = 255
    assert cut_out(Image.fromarray(pixels), Crop(10, 30, 10, 20), 16).min() == 255
    assert cut_out(Image.fromarray(pixels), Crop(20, 0, 20, 60), 16).max() == 0
