"""One photo's road as a picture: photo, CAM and refined CAM of each class, mask, overlay, legend."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from report.pictures import (
    GAP,
    INK,
    PAPER,
    colour_labels,
    fit,
    heat_colours,
    heat_overlay,
    label_colours,
    label_overlay,
)

LONG_SIDE = 280  # of a cell, in pixels
LEAST_SIDE = 150
CAPTION = 24  # height of the line above a cell
CHIP = 12
LINE = 21  # of the legend
HEAT_BAR = 36
SOFT = (120, 120, 120)
EDGE = (200, 200, 200)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
# A cell of the sheet: caption, colour of the chip before it, picture.
Cell = tuple[str, tuple[int, int, int] | None, np.ndarray]


@dataclass(frozen=True)
class PhotoRoad:
    """What the sheet shows.

    rgb        (H, W, 3) uint8
    mask       uint8 of any size, 255 where ignored; its shares are shown in the legend
    values     (k,) mask values of the classes
    cam, attn  (k, H, W) in [0, 1], before and after the affinity
    notes      k texts after the class names, such as a score; may be empty
    """

    rgb: np.ndarray
    mask: np.ndarray
    values: np.ndarray
    cam: np.ndarray
    attn: np.ndarray
    notes: Sequence[str] = ()


def photo_sheet(road: PhotoRoad, label_names: Sequence[str]) -> Image.Image:
    """Two rows of cells: photo | CAM of each class | mask, and overlay | refined CAM of each class | legend.

    label_names  by mask value
    """
    cell = _cell_size(road.rgb)
    top, bottom = _rows(road, label_names)
    bottom.append(("legend", None, _legend(road.mask, label_names, cell)))
    width, height = cell
    size = len(top) * (width + GAP) + GAP, 2 * (height + CAPTION + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for line, row in enumerate((top, bottom)):
        y = line * (height + CAPTION + GAP)
        for column, (caption, chip, picture) in enumerate(row):
            x = GAP + column * (width + GAP)
            _caption(draw, font, (x, y + 5), caption, chip, width)
            sheet.paste(Image.fromarray(fit(picture, width, height)), (x, y + CAPTION))
    return sheet


def _cell_size(rgb: np.ndarray) -> tuple[int, int]:
    """(width, height) with the photo's aspect, as far as captions and legend still have room."""
    height, width = rgb.shape[:2]
    scale = LONG_SIDE / max(width, height)
    return max(LEAST_SIDE, round(width * scale)), max(LEAST_SIDE, round(height * scale))


def _rows(road: PhotoRoad, label_names: Sequence[str]) -> tuple[list[Cell], list[Cell]]:
    """Both rows without the legend."""
    height, width = road.rgb.shape[:2]
    mask = cv2.resize(road.mask, (width, height), interpolation=cv2.INTER_NEAREST)  # labels are picked, never mixed
    top: list[Cell] = [("photo", None, road.rgb)]
    bottom: list[Cell] = [("mask over the photo", None, label_overlay(road.rgb, mask))]
    notes = road.notes or [""] * len(road.values)
    for value, note, cam, attn in zip(road.values, notes, road.cam, road.attn):
        name, chip = f"{label_names[value]} {note}".strip(), _colour(int(value))
        top.append((f"{name}: CAM", chip, heat_overlay(road.rgb, cam)))
        bottom.append((f"{name}: refined", chip, heat_overlay(road.rgb, attn)))
    top.append(("mask (white: 255)", None, _framed(colour_labels(mask))))
    return top, bottom


def _colour(label: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in label_colours()[label])
    return red, green, blue


def _framed(picture: np.ndarray) -> np.ndarray:
    """With a thin edge, so that white at the border is seen to belong to the picture."""
    thickness = max(1, round(max(picture.shape) / LONG_SIDE))
    return cv2.rectangle(picture.copy(), (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), EDGE, thickness)


def _caption(
    draw: ImageDraw.ImageDraw, font: Font, at: tuple[int, int], text: str, chip: tuple[int, int, int] | None, width: int
) -> None:
    x, y = at
    if chip is not None:
        draw.rectangle((x, y + 2, x + CHIP, y + 2 + CHIP), fill=chip, outline=INK)
        x, width = x + CHIP + 6, width - CHIP - 6
    draw.text((x, y), shortened(draw, font, text, width), INK, font)


def shortened(draw: ImageDraw.ImageDraw, font: Font, text: str, width: int) -> str:
    """The text, cut in its middle where it is wider than `width` pixels: what ends a caption says which row it is."""
    if draw.textlength(text, font) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        cut = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
        if draw.textlength(cut, font) <= width:
            return cut
    return "..."


def _legend(mask: np.ndarray, label_names: Sequence[str], cell: tuple[int, int]) -> np.ndarray:
    """Each label of the mask with its share of the pixels, largest first, and what the heat colours mean."""
    width, height = cell
    panel = Image.new("RGB", cell, PAPER)
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=13)
    entries = shares(mask, label_names)
    room = (height - HEAT_BAR) // LINE
    for line, (label, name, share) in enumerate(entries[:room]):
        y = line * LINE
        draw.rectangle((0, y + 3, CHIP, y + 3 + CHIP), fill=_colour(label), outline=INK)
        percent = f"{100 * share:.1f} %"
        left = width - draw.textlength(percent, font)
        draw.text((left, y + 1), percent, SOFT, font)
        draw.text((CHIP + 6, y + 1), shortened(draw, font, name, int(left) - CHIP - 12), INK, font)
    bar = heat_colours(np.tile(np.linspace(0, 1, width, dtype=np.float32), (10, 1)))
    panel.paste(Image.fromarray(bar), (0, height - 30))
    draw.text((0, height - 18), "0  CAM", SOFT, font)
    draw.text((width - 8, height - 18), "1", SOFT, font)
    return np.asarray(panel)


def shares(mask: np.ndarray, label_names: Sequence[str]) -> list[tuple[int, str, float]]:
    """(label, name, share of the pixels) of what an (H, W) uint8 mask holds; the largest first, 255 last."""
    counts = np.bincount(mask.ravel(), minlength=256) / mask.size
    present = sorted((int(label) for label in np.flatnonzero(counts)), key=lambda label: (label == 255, -counts[label]))
    return [
        (label, "not sure (255)" if label == 255 else label_names[label], float(counts[label])) for label in present
    ]
