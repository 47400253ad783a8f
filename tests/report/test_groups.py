"""Pictures of groups and names against what is known of a small picture."""

import numpy as np
import pytest
from PIL import ImageDraw

from report.groups import group_overlay, group_sheet, inmost, on_patches, with_names
from report.pictures import label_colours

RGB = np.full((60, 90, 3), 200, np.uint8)


def test_groups_get_colours_of_their_own() -> None:
    groups = np.zeros((60, 90), np.uint8)
    groups[:, 30:60], groups[:, 60:] = 1, 5
    picture = group_overlay(RGB, groups)
    colours = [picture[0, column] for column in (0, 30, 60)]
    assert len({tuple(colour.tolist()) for colour in colours}) == 3
    for group, colour in zip((0, 1, 5), colours):  # towards the palette's colour behind the background's
        assert np.abs(colour - label_colours()[group + 1]).sum() < np.abs(RGB[0, 0] - label_colours()[group + 1]).sum()


def test_a_square_is_of_the_group_that_most_of_it_is_of() -> None:
    groups = np.random.default_rng(0).integers(0, 3, (10, 7)).astype(np.uint8)
    found = on_patches(groups, 4)
    for top in range(0, 10, 4):
        for left in range(0, 7, 4):
            square = groups[top : top + 4, left : left + 4].ravel().tolist()
            best = max(range(3), key=square.count)
            assert (found[top : top + 4, left : left + 4] == best).all()


def test_the_sheet_names_used_groups_with_share_and_class(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, labels = np.full((60, 90), 3, np.uint8), np.zeros((60, 90), np.uint8)
    groups[:15], labels[:15] = 6, 2
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, *_, **__: texts.append(text))
    sheet = group_sheet(RGB, groups, labels, ["background", "cat", "dog"])
    assert texts == ["4: 75 %, background", "7: 25 %, dog"] and sheet.width > 2 * 150


def test_names_stand_inmost_and_inside() -> None:
    region = np.zeros((60, 90), bool)
    region[10:51, 20:81] = True
    x, y = inmost(region) or (0, 0)
    assert 40 <= x <= 60 and y == 30
    small = np.zeros((60, 90), bool)
    small[0, :5] = True
    assert inmost(small) is None
    labels = region.astype(np.uint8)
    picture = with_names(RGB, labels, ["background", "a name of some length"])
    rows, columns = np.nonzero((picture != RGB).any(axis=2))
    assert rows.min() >= 20 and rows.max() <= 40 and columns.min() >= 0 and columns.max() < 90
    assert np.array_equal(with_names(RGB, np.zeros_like(labels), ["background"]), RGB)
    assert not np.array_equal(with_names(RGB, np.zeros_like(labels), ["sky"], has_background=False), RGB)
    border = np.zeros((60, 90), np.uint8)
    border[:, :8] = 1
    picture = with_names(RGB, border, ["background", "cat"])
    assert (np.nonzero((picture != RGB).any(axis=2))[1]).min() >= 0 and not np.array_equal(picture, RGB)
