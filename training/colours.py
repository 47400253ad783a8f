"""Random colours of training images, as SSD varied them (Liu et al., 2016)."""

import cv2
import numpy as np

BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18  # hue in OpenCV's 180 steps


def recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 RGB with other colours.

    Brightness, contrast, saturation and hue, each varied with probability one half; contrast first or last.
    """
    if rng.random() < 0.5:
        image = _linear(image, 1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast = rng.uniform(*CONTRAST) if rng.random() < 0.5 else 1.0
    first = rng.random() < 0.5
    if first:
        image = _linear(image, contrast, 0.0)
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-HUE, HUE + 1)) if rng.random() < 0.5 else 0
    if saturation != 1.0 or hue:
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _linear(hsv[..., 1], saturation, 0.0)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if first else _linear(image, contrast, 0.0)


def _linear(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    return np.clip(image.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)
