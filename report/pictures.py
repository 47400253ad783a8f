"""Pictures for people: heat maps, coloured labels, contact sheets.

All images are (H, W, 3) uint8 RGB.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.palettes import voc_palette
from pipeline.steps.masks import IGNORE_INDEX

PAPER = (255, 255, 255)
INK = (40, 40, 40)
GAP = 8
TITLE = 22  # height of the line above a column
IGNORE_COLOUR = (255, 255, 255)


def heat_overlay(rgb: np.ndarray, heat: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """An (H, W) map in [0, 1] as colours over its image, blue for 0 to red for 1."""
    return cv2.addWeighted(rgb, 1 - strength, heat_colours(heat), strength, 0)


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """An (H, W) map in [0, 1] as (H, W, 3) colours, blue for 0 to red for 1."""
    levels = (np.clip(heat, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def label_colours() -> np.ndarray:
    """(256, 3) uint8: VOC's palette, with white for pixels to ignore."""
    colours = voc_palette()
    colours[IGNORE_INDEX] = IGNORE_COLOUR
    return colours


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """(H, W) uint8 labels in VOC's colours; 255 is white."""
    return label_colours()[labels]


def label_overlay(rgb: np.ndarray, labels: np.ndarray, has_background: bool = True) -> np.ndarray:
    """Labels over the image: background (label 0, where there is one) as it is, classes tinted, 255 white."""
    tinted = cv2.addWeighted(rgb, 0.45, colour_labels(labels), 0.55, 0)
    return np.where((labels == 0)[..., None], rgb, tinted) if has_background else tinted


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The image scaled into a (height, width) box, aspect kept, centred on paper."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    box = np.full((height, width, 3), PAPER, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    box[top : top + size[1], left : left + size[0]] = scaled
    return box


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
    cell: tuple[int, int] = (200, 160),
) -> Image.Image:
    """Rows of pictures under column titles, with a legend of (name, colour) below.

    cell  (width, height) in pixels into which every picture is fitted
    """
    width, height = cell
    sheet_width = len(titles) * (width + GAP) + GAP
    legend_lines = _legend_layout(legend, sheet_width)
    sheet_height = TITLE + len(rows) * (height + GAP) + GAP + len(legend_lines) * TITLE
    sheet = Image.new("RGB", (sheet_width, sheet_height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (width + GAP), 4), title, INK, font)
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            at = GAP + column * (width + GAP), TITLE + line * (height + GAP)
            sheet.paste(Image.fromarray(fit(picture, width, height)), at)
    top = TITLE + len(rows) * (height + GAP)
    for line, entries in enumerate(legend_lines):
        for x, name, colour in entries:
            y = top + line * TITLE
            draw.rectangle((x, y + 4, x + 12, y + 16), fill=colour, outline=INK)
            draw.text((x + 18, y + 3), name, INK, font)
    return sheet


def _legend_layout(legend: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> list[list]:
    lines: list[list] = []
    x = width
    for name, colour in legend:
        needed = 34 + 8 * len(name)
        if x + needed > width:
            lines.append([])
            x = GAP
        lines[-1].append((x, name, colour))
        x += needed
    return lines


def legend_of(label_names: Sequence[str], used: set[int]) -> list[tuple[str, tuple[int, int, int]]]:
    """Legend entries (name, colour) of the labels in use, and of 255 where it is."""
    colours = label_colours()
    names = [*((index, name) for index, name in enumerate(label_names)), (IGNORE_INDEX, "ignored (255)")]
    return [(name, (int(r), int(g), int(b))) for index, name in names if index in used for r, g, b in [colours[index]]]


# Colours that colour-blind people can tell apart (Okabe and Ito); 255 is white, as in the masks.
DIFFERENCES = (
    ("right, background", (30, 30, 34)),
    ("right, class", (0, 114, 178)),
    ("missed: background instead of the class", (230, 159, 0)),
    ("too much: a class on the background", (213, 94, 0)),
    ("another class", (204, 121, 167)),
    ("not kept (255)", IGNORE_COLOUR),
    ("not scored (255 in the truth)", (128, 128, 128)),
)


def difference(mask: np.ndarray, truth: np.ndarray, num_labels: int, has_background: bool = True) -> np.ndarray:
    """(H, W) uint8 mask and truth to (H, W, 3) colours by index into DIFFERENCES."""
    kinds = np.where(mask == truth, np.uint8(1), np.uint8(4))
    if has_background:
        kinds[(mask == 0) & (truth == 0)] = 0
        kinds[(mask == 0) & (truth != 0)] = 2
        kinds[(mask != 0) & (truth == 0)] = 3
    kinds[mask == IGNORE_INDEX] = 5
    kinds[truth >= num_labels] = 6
    return np.array([colour for _name, colour in DIFFERENCES], np.uint8)[kinds]
