"""The stages of a photo as HTML: which pictures there are, what they show, and that nothing in it is code."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import pytest
from lxml import html
from PIL import Image

from report.photo_stages import PhotoStages, stages_html
from report.pictures import colour_labels, heat_overlay
from tests.support import photo

HOSTILE = "<img src=x onerror=alert(1)>"
BOTH = ["photo", "CAM: all words", "after the affinity: all words", "after the CRF", "mask (white: not sure, 255)"]


def stages(names: Sequence[str] = ("background", "cat", HOSTILE), refined: bool = True) -> PhotoStages:
    across, down = np.meshgrid(np.linspace(0, 1, 30, dtype=np.float32), np.linspace(0, 1, 20, dtype=np.float32))
    maps = np.stack([across, down])
    mask = np.zeros((20, 30), np.uint8)
    mask[:5], mask[5:8], mask[8:10] = 2, 1, 255
    return PhotoStages(
        photo((20, 30), 1),
        maps,
        maps**2 if refined else maps,
        [1, 2],
        np.where(mask == 255, np.uint8(1), mask),
        mask,
        {0: 0.99, 1: 0.5, 2: 0.75},
        names,
        True,
        (200, 300),
        [HOSTILE],
    )


def pictures(text: str) -> dict[str, np.ndarray]:
    """By caption, the pictures in a page."""
    found = {}
    for figure in html.fromstring(text).cssselect("figure"):
        (image,), (caption,) = figure.cssselect("img"), figure.cssselect("figcaption")
        kind, data = image.get("src").split(",")
        assert kind == "data:image/webp;base64" and image.get("alt") == caption.text_content()
        found[caption.text_content()] = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    return found


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """As far as a lossy picture goes."""
    return float(np.abs(one.astype(int) - other).mean()) < 12


def test_pictures_in_the_order_of_the_stages() -> None:
    given = stages()
    found = pictures(stages_html(given))
    assert list(found) == [*BOTH, "mask over the photo"]
    assert near(found["photo"], given.rgb)
    for caption, maps in ((BOTH[1], given.cam), (BOTH[2], given.attn)):
        assert near(found[caption], heat_overlay(given.rgb, maps.max(axis=0)))
    assert np.array_equal(found["after the CRF"], colour_labels(given.labels))
    assert np.array_equal(found[BOTH[4]], colour_labels(given.mask)) and (found[BOTH[4]][9] == 255).all()


def test_the_maps_of_one_word_and_of_methods_without_affinity() -> None:
    given = stages(refined=False)
    found = pictures(stages_html(given, "cat"))
    assert list(found)[:3] == ["photo", "CAM: cat", "after the CRF"]
    assert near(found["CAM: cat"], heat_overlay(given.rgb, given.cam[0]))
    assert not near(found["CAM: cat"], heat_overlay(given.rgb, given.cam[1]))


def test_shares_and_confidence_are_listed() -> None:
    page = html.fromstring(stages_html(stages()))
    rows = [[cell.text_content() for cell in row] for row in page.cssselect("tbody tr")]
    assert rows == [
        ["background", "50.0 %", "99.0 %"],
        [HOSTILE, "25.0 %", "75.0 %"],
        ["cat", "15.0 %", "50.0 %"],
        ["not sure (255)", "10.0 %", "–"],
    ]
    assert page.cssselect("caption")[0].text_content() == "Mask of 300 x 200 pixels"


@pytest.mark.parametrize("word", ["", HOSTILE])
def test_words_and_notes_stay_text(word: str) -> None:
    text = stages_html(stages(), word)
    assert HOSTILE not in text and "onerror" in html.fromstring(text).text_content()
