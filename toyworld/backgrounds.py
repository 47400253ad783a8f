"""The textures behind the objects: one function a background word.

Each returns RGB (H, W, 3) float32 around 0..255. The grain is kept fine and faint: the CRF's colour kernel is only 3
levels wide.
"""

from collections.abc import Callable

import cv2
import numpy as np

Texture = Callable[[np.random.Generator, int, int], np.ndarray]


def clouded(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth noise, (H, W) float32 of about unit spread, whose lumps are cell_y by cell_x pixels."""
    rows, columns = int(np.ceil(height / cell_y)) + 2, int(np.ceil(width / cell_x)) + 2
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def tinted(rng: np.random.Generator, colour: tuple[float, float, float], spread: float = 9) -> np.ndarray:
    """The colour, (3,) float32, a little off."""
    return (np.array(colour) + rng.uniform(-spread, spread, 3)).astype(np.float32)


def blend(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(H, W, 3): `low` where share (H, W) is 0, `high` where it is 1."""
    return low + (high - low) * np.clip(share, 0, 1)[..., None]


def grass(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Upright blades in two greens over soft patches of light."""
    blades = clouded(rng, height, width, rng.uniform(9, 14), 2.2)
    light = clouded(rng, height, width, 60, 60)
    return blend(tinted(rng, (92, 142, 62)), tinted(rng, (148, 188, 92)), 0.45 + 0.22 * blades + 0.12 * light)


def sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Paler towards the horizon, with soft clouds."""
    fall = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    air = blend(tinted(rng, (104, 168, 226)), tinted(rng, (190, 222, 242), 5), fall * rng.uniform(0.5, 1))
    lumps = clouded(rng, height, width, 22, 48) + 0.4 * clouded(rng, height, width, 9, 18)
    return air + (np.float32(250) - air) * np.clip((lumps - rng.uniform(0.5, 1.0)) * 0.9, 0, 0.85)[..., None]


def water(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Rows of waves with pale crests."""
    y = np.arange(height, dtype=np.float32)[:, None] * 2 * np.pi / rng.uniform(9, 14)
    sway = 1.6 * clouded(rng, height, width, 30, 26)
    waves = np.sin(y + sway + 0.8 * clouded(rng, height, width, 10, 60))
    surface = blend(tinted(rng, (34, 104, 152)), tinted(rng, (66, 148, 184)), 0.5 + 0.4 * waves)
    return surface + 60 * np.clip(waves - 0.86, 0, 1)[..., None]


def sand(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Speckled dunes with wind ripples."""
    dunes = clouded(rng, height, width, 40, 70)
    y = np.arange(height, dtype=np.float32)[:, None]
    ripples = np.sin(y * 2 * np.pi / rng.uniform(14, 22) + 2.0 * clouded(rng, height, width, 40, 40))
    speckle = clouded(rng, height, width, 2, 2)
    share = 0.5 + 0.16 * dunes + 0.14 * ripples + 0.08 * speckle
    return blend(tinted(rng, (206, 172, 116)), tinted(rng, (240, 216, 162), 6), share)


def brick(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Courses of bricks, each in its own tone, in pale mortar."""
    tall, long = rng.uniform(13, 18), rng.uniform(30, 42)
    y = np.arange(height, dtype=np.float32)[:, None] + rng.uniform(0, tall)
    course = np.floor(y / tall)
    x = np.arange(width, dtype=np.float32)[None] + (course % 2) * long / 2 + rng.uniform(0, long)
    column = np.floor(x / long).astype(int)
    tones = rng.normal(0, 1, (int(course.max()) + 1, int(column.max()) + 1)).astype(np.float32)
    tone = tones[course.astype(int), column] + 0.25 * clouded(rng, height, width, 3, 5)
    wall = blend(tinted(rng, (158, 78, 62)), tinted(rng, (196, 112, 86)), 0.5 + 0.25 * tone)
    joint = (y % tall < 2) | (x % long < 2)
    return np.where(joint[..., None], tinted(rng, (214, 202, 186)), wall).astype(np.float32)


def road(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Grey asphalt with a dashed line."""
    grain = clouded(rng, height, width, 1.6, 1.6)
    wear = clouded(rng, height, width, 12, 60)
    asphalt = blend(tinted(rng, (92, 94, 100)), tinted(rng, (124, 126, 130)), 0.5 + 0.14 * grain + 0.16 * wear)
    middle, thick, dash = height * rng.uniform(0.3, 0.85), rng.uniform(4, 7), rng.uniform(22, 34)
    top, bottom = int(middle), int(middle + thick)
    on = (np.arange(width) + rng.uniform(0, dash)) % (dash * 1.8) < dash
    asphalt[top:bottom, on] = tinted(rng, (232, 226, 206))
    return asphalt


TEXTURES: dict[str, Texture] = {
    "grass": grass, "sky": sky, "water": water, "sand": sand, "brick": brick, "road": road,
}  # fmt: skip
UNDER_SKY = ("grass", "water", "sand", "road")


def landscape(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """One texture, or a sky over a ground. Returns RGB (H, W, 3) float32 and the words, top to bottom."""
    if rng.random() < 0.65:
        name = list(TEXTURES)[rng.integers(len(TEXTURES))]
        return TEXTURES[name](rng, height, width), (name,)
    ground = UNDER_SKY[rng.integers(len(UNDER_SKY))]
    horizon = int(height * rng.uniform(0.35, 0.6))
    below = TEXTURES[ground](rng, height - horizon, width)
    return np.concatenate([sky(rng, horizon, width), below]), ("sky", ground)
