"""A labelled scene: objects placed on a background, with the exact mask.

A scene depends on (seed, index) and the style alone, so any image of a set can be drawn without the others.
"""

from dataclasses import dataclass

import numpy as np

from toyworld.backgrounds import landscape
from toyworld.names import CLASSES
from toyworld.objects import DESIGNS
from toyworld.paint import render

GRAIN = 1.2  # standard deviation of the pixel noise, in grey levels
MIN_VISIBLE_SHARE = 0.45  # of an object's own pixels
MIN_VISIBLE_PIXELS = 220
_MAX_ATTEMPTS = 40


@dataclass(frozen=True)
class Style:
    """What may vary between scenes. Radii are half an object's unit box, as a share of the image's shorter side."""

    heights: tuple[int, int] = (144, 256)  # inclusive, pixels
    widths: tuple[int, int] = (144, 256)
    counts: tuple[float, ...] = (0.40, 0.38, 0.22)  # probability of 1, 2, 3 objects
    radii: tuple[float, float] = (0.20, 0.42)
    avoid_multiples_of: int | None = 16  # so that every image of a data set exercises the resize to the patch grid


@dataclass(frozen=True)
class Scene:
    """image RGB (H, W, 3) uint8; mask (H, W) uint8, 0 or class index + 1; classes in drawing order; backgrounds."""

    image: np.ndarray
    mask: np.ndarray
    classes: tuple[str, ...]
    backgrounds: tuple[str, ...]


def _side(rng: np.random.Generator, bounds: tuple[int, int], avoid: int | None) -> int:
    while True:
        side = int(rng.integers(bounds[0], bounds[1] + 1))
        if avoid is None or side % avoid:
            return side


def _placement(rng: np.random.Generator, height: int, width: int, count: int, radii: tuple[float, float]) -> np.ndarray:
    """(2, 3) affine from unit coordinates to pixels: size, stretch, tilt, flip, place; most of it inside the image."""
    largest = radii[1] * (1.0, 0.85, 0.72)[count - 1]
    radius = min(height, width) * np.exp(rng.uniform(np.log(radii[0]), np.log(largest)))
    stretch, tilt = np.exp(rng.uniform(-0.12, 0.12)), rng.uniform(-0.16, 0.16)
    flip = -1 if rng.random() < 0.5 else 1
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    linear = turn @ np.diag([radius * stretch * flip, radius / stretch])
    margin = 0.75 * radius
    centre = [rng.uniform(margin, side - margin) for side in (width, height)]
    return np.column_stack([linear, centre])


def _compose(
    rng: np.random.Generator, backdrop: np.ndarray, classes: tuple[str, ...], style: Style
) -> tuple[np.ndarray, np.ndarray] | None:
    """One attempt: image (H, W, 3) float32 and mask (H, W) uint8, or None when an object ended up (nearly) hidden."""
    (height, width), sizes = backdrop.shape[:2], {}
    image, mask = backdrop.copy(), np.zeros((height, width), np.uint8)
    for name in classes:
        to_pixels = _placement(rng, height, width, len(classes), style.radii)
        colour, share = render(DESIGNS[name](rng), to_pixels, height, width)
        # A little more light at the upper left of an object than at its lower right.
        radius = np.sqrt(abs(np.linalg.det(to_pixels[:, :2])))
        x = (np.arange(width, dtype=np.float32) - to_pixels[0, 2]) / radius
        y = (np.arange(height, dtype=np.float32)[:, None] - to_pixels[1, 2]) / radius
        image *= 1 - share[..., None]
        image += colour * (1 - 0.02 * np.clip(x + y, -2, 2))[..., None].astype(np.float32)
        covered, label = share >= 0.5, CLASSES.index(name) + 1
        mask[covered] = label
        sizes[label] = int(covered.sum())
    for label, size in sizes.items():
        visible = int((mask == label).sum())
        if visible < MIN_VISIBLE_PIXELS or visible < MIN_VISIBLE_SHARE * size:
            return None
    return image, mask


def draw_scene(seed: int, index: int, style: Style = Style()) -> Scene:
    """Scene `index` of the set `seed`."""
    rng = np.random.default_rng([seed, index])
    height = _side(rng, style.heights, style.avoid_multiples_of)
    width = _side(rng, style.widths, style.avoid_multiples_of)
    count = 1 + int(rng.choice(len(style.counts), p=style.counts))
    classes = tuple(CLASSES[i] for i in rng.choice(len(CLASSES), count, replace=False))
    backdrop, words = landscape(rng, height, width)
    for _ in range(_MAX_ATTEMPTS):
        composed = _compose(rng, backdrop, classes, style)
        if composed is not None:
            image, mask = composed
            grain = rng.normal(0, GRAIN, (height, width, 1)) + rng.normal(0, GRAIN / 2, (height, width, 3))
            return Scene(np.clip(image + grain, 0, 255).round().astype(np.uint8), mask, classes, words)
    raise RuntimeError(f"scene {index} of seed {seed}: no placement of {classes} in {_MAX_ATTEMPTS} attempts")
