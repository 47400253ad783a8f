"""Paper and scissors: polygons in unit coordinates, shades of a colour, and their rendering.

Unit coordinates put an object into [-1, 1] x [-1, 1], x to the right and y down. Colours are RGB, 0..255.
"""

from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLING = 3
_SUBPIXEL_BITS = 4

Colour = tuple[float, float, float]

PAPERS: dict[str, Colour] = {
    "coral": (236, 106, 82), "red": (205, 62, 70), "yellow": (246, 190, 78), "orange": (244, 146, 66),
    "teal": (40, 150, 140), "aqua": (96, 190, 186), "navy": (52, 84, 140), "violet": (122, 92, 168),
    "pink": (236, 136, 170), "plum": (150, 70, 110), "cream": (240, 228, 200), "lime": (176, 204, 74),
    "cocoa": (164, 106, 76), "lilac": (176, 150, 214),
}  # fmt: skip
LIKED_SHARE = 0.9  # how often an object gets one of the papers that suit it
WHITE: Colour = (246, 244, 238)
INK: Colour = (48, 46, 54)
WOOD: Colour = (128, 88, 58)
GLASS: Colour = (190, 222, 232)


@dataclass(frozen=True)
class Part:
    """One flat piece of paper: an (n, 2) polygon in unit coordinates and its colour."""

    outline: np.ndarray
    colour: Colour


def part(colour: Colour, *points: tuple[float, float]) -> Part:
    """A piece of paper with these corners."""
    return Part(np.array(points, np.float32), colour)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour in more (factor > 1) or less light."""
    red, green, blue = (float(np.clip(channel * factor, 0, 255)) for channel in colour)
    return red, green, blue


def paper(rng: np.random.Generator, liked: str = "", besides: tuple[Colour, ...] = ()) -> Colour:
    """A paper of the palette, its colour a little off: mostly one of `liked` (names), never one of `besides`."""
    names = liked.split() if liked and rng.random() < LIKED_SHARE else list(PAPERS)
    choices = [PAPERS[name] for name in names if all(_differ(PAPERS[name], other) for other in besides)]
    choices = choices or [colour for colour in PAPERS.values() if all(_differ(colour, other) for other in besides)]
    red, green, blue = (float(channel) for channel in choices[rng.integers(len(choices))] + rng.uniform(-10, 10, 3))
    return shade((red, green, blue), rng.uniform(0.92, 1.05))


def _differ(one: Colour, other: Colour) -> bool:
    return float(np.abs(np.subtract(one, other)).max()) > 45


def oval(cx: float, cy: float, rx: float, ry: float, corners: int = 24) -> np.ndarray:
    """(corners, 2) outline of an ellipse."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], 1).astype(np.float32)


def folded(outline: np.ndarray, centre: tuple[float, float], colour: Colour, depth: float = 0.1) -> list[Part]:
    """The outline creased from its corners to `centre`: one triangle an edge, lit from the upper left."""
    pieces = []
    for start, end in zip(outline, np.roll(outline, -1, 0)):
        towards_light = np.array(centre) - (start + end) / 2
        lit = float(towards_light @ (0.6, 0.8)) / (float(np.linalg.norm(towards_light)) + 1e-6)
        pieces.append(Part(np.array([start, end, centre], np.float32), shade(colour, 1 + depth * lit)))
    return pieces


def render(parts: list[Part], to_pixels: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint the parts in order on an empty canvas.

    to_pixels: (2, 3) affine from unit coordinates to pixels. Returns RGB (H, W, 3) float32 0..255, premultiplied by
    the share of each pixel that is covered, and that share, (H, W) float32 0..1.
    """
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING, 4), np.uint8)
    for piece in parts:
        pixels = piece.outline @ to_pixels[:, :2].T + to_pixels[:, 2]
        # Integer coordinates of cv2 are pixel centres, ours are corners: hence the half.
        fixed = np.round((pixels * SUPERSAMPLING - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], (*piece.colour, 255), shift=_SUBPIXEL_BITS)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small[..., :3], small[..., 3] / 255
