"""Pictures of groups, and of labels with their names in them: what a method such as SegCLIP shows of one photo.

All images are (H, W, 3) uint8 RGB.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.spec import IGNORE_INDEX
from report.pictures import INK, PAPER, contact_sheet, label_overlay

FADED = 0.2  # how much is seen of what is not in a group
SMALLEST = 0.003  # share of the picture below which a region gets no name
CELL, LEAST_WIDTH = 240, 150  # of a group's picture on the sheet: longer side, and width for its title
TEXT_HEIGHT = 24  # of names, at most; less in small pictures


def group_overlay(rgb: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Every group (H, W) in a colour of its own over the photo."""
    return label_overlay(rgb, (groups + 1).astype(np.uint8))  # 0 would be untinted


def on_patches(groups: np.ndarray, cell: int) -> np.ndarray:
    """Groups (H, W) with each square of `cell` pixels in the group that most of it is of."""
    height, width = groups.shape
    result = np.empty_like(groups)
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            square = (slice(top, top + cell), slice(left, left + cell))
            result[square] = np.bincount(groups[square].ravel()).argmax()
    return result


def group_sheet(rgb: np.ndarray, groups: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Image.Image:
    """A cell for each group that has pixels, largest first: the photo with all else faded, its share, what it is of.

    labels  (H, W) uint8 the prediction; names by label
    """
    counts = np.bincount(groups.ravel())
    used = [int(group) for group in np.argsort(-counts, kind="stable") if counts[group]]
    pictures, titles = [], []
    for group in used:
        inside = groups == group
        paper = np.full_like(rgb, PAPER[0])
        faded = cv2.addWeighted(rgb, FADED, paper, 1 - FADED, 0)
        pictures.append(np.where(inside[..., None], rgb, faded))
        most = int(np.bincount(labels[inside]).argmax())
        name = "" if most == IGNORE_INDEX else f", {names[most]}"
        titles.append(f"{group + 1}: {100 * counts[group] / groups.size:.0f} %{name}")
    height, width = rgb.shape[:2]
    scale = CELL / max(height, width)
    return contact_sheet([pictures], titles, cell=(max(LEAST_WIDTH, round(width * scale)), round(height * scale)))


def with_names(rgb: np.ndarray, labels: np.ndarray, names: Sequence[str], has_background: bool = True) -> np.ndarray:
    """The picture with the name of each label written into its largest region, at the place farthest from its border.

    The background is not named, nor are regions that are too small.
    """
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, min(TEXT_HEIGHT, min(labels.shape) // 12)))
    for label in np.unique(labels).tolist():
        if label == IGNORE_INDEX or (has_background and label == 0):
            continue
        place = inmost(labels == label)
        if place is not None:
            name, half = names[label], draw.textlength(names[label], font) / 2 + 2
            x = min(max(place[0], half), max(half, image.width - half))  # inside the picture where it is wide enough
            draw.text((x, place[1]), name, PAPER, font, anchor="mm", stroke_width=2, stroke_fill=INK)
    return np.asarray(image)


def inmost(region: np.ndarray) -> tuple[int, int] | None:
    """(x, y) of the point of a mask (H, W) that lies farthest from its border; None for a small one."""
    if region.mean() < SMALLEST:
        return None
    framed = np.pad(region.astype(np.uint8), 1)  # the edge of the picture is a border too
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)
