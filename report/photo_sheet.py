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
Cell = tuple[str, int | None, np.ndarray]  # caption, label whose colour stands before it, picture


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
    has_background: bool = True


def photo_sheet(road: PhotoRoad, label_names: Sequence[str]) -> Image.Image:
    """Two rows of cells: photo | CAM of each class | mask, and overlay | refined CAM of each class | legend.

    label_names  by mask value
    """
    rows = _rows(road, label_names)
    scale = LONG_SIDE / max(road.rgb.shape[:2])  # the photo's aspect, as far as captions and legend still have room
    height, width = (max(LEAST_SIDE, round(side * scale)) for side in road.rgb.shape[:2])
    rows[1].append(("legend", None, _legend(road.mask, label_names, width, height)))
    sheet = Image.new("RGB", (len(rows[0]) * (width + GAP) + GAP, 2 * (height + CAPTION + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for line, row in enumerate(rows):
        for column, (caption, label, picture) in enumerate(row):
            x, y = GAP + column * (width + GAP), line * (height + CAPTION + GAP)
            sheet.paste(Image.fromarray(fit(picture, width, height)), (x, y + CAPTION))
            indent = 0 if label is None else _chip(draw, label, x, y + 7)
            draw.text((x + indent, y + 5), _shortened(draw, font, caption, width - indent), INK, font)
    return sheet


def _rows(road: PhotoRoad, label_names: Sequence[str]) -> tuple[list[Cell], list[Cell]]:
    """Both rows without the legend."""
    height, width = road.rgb.shape[:2]
    mask = cv2.resize(road.mask, (width, height), interpolation=cv2.INTER_NEAREST)  # labels are picked, never mixed
    top: list[Cell] = [("photo", None, road.rgb)]
    bottom: list[Cell] = [("mask over the photo", None, label_overlay(road.rgb, mask, road.has_background))]
    notes = road.notes or [""] * len(road.values)
    for value, note, cam, attn in zip(road.values, notes, road.cam, road.attn):
        label = int(value)
        name = f"{label_names[label]} {note}".strip()
        top.append((f"{name}: CAM", label, heat_overlay(road.rgb, cam)))
        bottom.append((f"{name}: refined", label, heat_overlay(road.rgb, attn)))
    # A thin edge shows that white at the border belongs to the picture.
    thickness = max(1, round(max(height, width) / LONG_SIDE))
    framed = cv2.rectangle(colour_labels(mask), (0, 0), (width - 1, height - 1), EDGE, thickness)
    top.append(("mask (white: 255)", None, framed))
    return top, bottom


def _chip(draw: ImageDraw.ImageDraw, label: int, x: int, y: int) -> int:
    """Draw a small square in the label's colour; returns the width that it takes."""
    draw.rectangle((x, y, x + CHIP, y + CHIP), fill=tuple(label_colours()[label].tolist()), outline=INK)
    return CHIP + 6


def _shortened(draw: ImageDraw.ImageDraw, font: Font, text: str, width: int) -> str:
    """The text, cut in its middle where it is wider than `width` pixels: what ends a caption says which row it is."""
    if draw.textlength(text, font) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        cut = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
        if draw.textlength(cut, font) <= width:
            return cut
    return "..."


def _legend(mask: np.ndarray, label_names: Sequence[str], width: int, height: int) -> np.ndarray:
    """Each label of the mask with its share of the pixels, largest first, and what the heat colours mean."""
    panel = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=13)
    for line, (label, name, share) in enumerate(shares(mask, label_names)[: (height - HEAT_BAR) // LINE]):
        y, percent = line * LINE, f"{100 * share:.1f} %"
        left = width - draw.textlength(percent, font)
        indent = _chip(draw, label, 0, y + 3)
        draw.text((left, y + 1), percent, SOFT, font)
        draw.text((indent, y + 1), _shortened(draw, font, name, int(left) - indent - 6), INK, font)
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
