"""Random colours, against plain sums and colorsys."""

import colorsys

import numpy as np

from training.colours import recoloured


class Told:
    """A generator whose answers are given; `random` below one half says yes."""

    def __init__(self, *answers: float) -> None:
        self.answers = list(answers)

    def random(self) -> float:
        return self.answers.pop(0)

    def uniform(self, low: float, high: float) -> float:
        value = self.answers.pop(0)
        assert low <= value <= high
        return value

    def integers(self, low: int, high: int) -> int:
        value = int(self.answers.pop(0))
        assert low <= value < high
        return value


NO, YES = 0.9, 0.1


def recolour(image: np.ndarray, *answers: float) -> np.ndarray:
    told = Told(*answers)
    found = recoloured(image, told)  # type: ignore[arg-type]
    assert not told.answers
    return found


def test_brightness_and_contrast_in_both_orders() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    brighter = np.clip(image.astype(float) + 20, 0, 255)
    assert np.array_equal(recolour(image, YES, 20, NO, NO, NO, NO), brighter.astype(np.uint8))
    for order in (YES, NO):
        found = recolour(image, NO, YES, 1.5, order, NO, NO)
        assert np.array_equal(found, np.clip(image * 1.5, 0, 255).astype(np.uint8))


def test_saturation_and_hue_against_colorsys() -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    found = recolour(image, NO, NO, NO, YES, 0.5, YES, 12)
    for before, after in zip(image.reshape(-1, 3) / 255, found.reshape(-1, 3) / 255):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb((hue + 12 / 180) % 1, saturation * 0.5, value)
        np.testing.assert_allclose(after, expected, atol=0.03)  # OpenCV counts 180 hues
