"""One photo's stages side by side as a piece of HTML that fetches nothing: pictures are part of the text."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dataset.spec import IGNORE_INDEX
from report.gallery import webp
from report.page import colour, percent
from report.photo_sheet import shares
from report.pictures import colour_labels, heat_overlay, label_colours, label_overlay

ASSETS = Path(__file__).with_name("assets")
QUALITY = 88  # of photos


@dataclass(frozen=True)
class PhotoStages:
    """What was made of a photo, at the size at which it was worked on.

    rgb         (H, W, 3) uint8
    cam, attn   (k, H, W) in [0, 1], before and after the affinity; the same where there is none
    values      (k,) mask values of the classes
    labels      (H, W) uint8 after the CRF
    mask        the same with 255 where they are not sure enough
    confidence  the mean of the highest probability by value of `labels`
    names       by mask value
    size        (H, W) of the photo in the file
    notes       what people should know
    refined_by  the last step, for a caption
    """

    rgb: np.ndarray
    cam: np.ndarray
    attn: np.ndarray
    values: Sequence[int]
    labels: np.ndarray
    mask: np.ndarray
    confidence: dict[int, float]
    names: Sequence[str]
    has_background: bool
    size: tuple[int, int]
    notes: Sequence[str] = ()
    refined_by: str = "the CRF"

    @property
    def words(self) -> list[str]:
        return [self.names[value] for value in self.values]


def stages_html(stages: PhotoStages, word: str = "") -> str:
    """The pictures with their captions, and the colours with their shares of the mask.

    word  the class whose maps are shown; not one of them: the largest of all at each pixel
    """
    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "colour": colour}
    content = {"stages": stages, "figures": _figures(stages, word), "legend": _legend(stages)}
    return environment.get_template("photo_stages.html.j2").render(content)


def _figures(stages: PhotoStages, word: str) -> list[tuple[str, str]]:
    """(caption, address) of each picture, in the order of the stages."""
    photo, words = stages.rgb, stages.words
    of = [words.index(word)] if word in words else list(range(len(words)))
    name = word if word in words else "all words" if len(words) > 1 else "".join(words)
    heats = {"CAM": stages.cam}
    if not np.array_equal(stages.cam, stages.attn):
        heats["after the affinity"] = stages.attn
    return [
        ("photo", _photo(photo)),
        *((f"{title}: {name}", _photo(heat_overlay(photo, maps[of].max(axis=0)))) for title, maps in heats.items()),
        (f"after {stages.refined_by}", _labels(colour_labels(stages.labels))),
        ("mask (white: not sure, 255)", _labels(colour_labels(stages.mask))),
        ("mask over the photo", _photo(label_overlay(photo, stages.mask, stages.has_background))),
    ]


def _legend(stages: PhotoStages) -> list[tuple[np.ndarray, str, float, float | None]]:
    """Colour, name, share of the mask and mean confidence of each value, the largest first, 255 last."""
    colours = label_colours()
    shown = shares(stages.mask, stages.names)
    return [
        (colours[value], name, share, None if value == IGNORE_INDEX else stages.confidence.get(value))
        for value, name, share in shown
    ]


def _photo(rgb: np.ndarray) -> str:
    return _address(webp(rgb, quality=QUALITY))


def _labels(rgb: np.ndarray) -> str:
    return _address(webp(rgb, lossless=True))


def _address(picture: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
