"""Pictures for people: colours that say what the labels say, sheets whose parts lie where they are told."""

import numpy as np
import pytest

from report.pictures import (
    DIFFERENCES,
    GAP,
    TITLE,
    colour_labels,
    contact_sheet,
    difference,
    fit,
    heat_overlay,
    label_overlay,
    legend_of,
)

# The first colours of VOC's palette, as its development kit lists them.
VOC_COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]


def test_labels_have_the_colours_of_voc_and_255_is_white() -> None:
    labels = np.array([[0, 1, 2, 3, 4, 5, 6, 255]], np.uint8)
    assert [tuple(colour) for colour in colour_labels(labels)[0]] == [*VOC_COLOURS, (255, 255, 255)]


def test_heat_is_blue_where_low_and_red_where_high_and_lets_the_photo_through() -> None:
    heat = np.array([[0.05, 0.95]], np.float32)
    dark, light = (heat_overlay(np.full((1, 2, 3), value, np.uint8), heat)[0].astype(int) for value in (0, 200))
    (low_red, _, low_blue), (high_red, _, high_blue) = dark
    assert low_blue > low_red and high_red > high_blue
    assert np.abs(light - dark - 80).max() <= 1  # 0.4 of 200


@pytest.mark.parametrize(("shape", "inside"), [((10, 40), (5, 20)), ((40, 10), (20, 5)), ((5, 5), (20, 20))])
def test_a_picture_keeps_its_aspect_in_the_middle_of_its_box(shape: tuple[int, int], inside: tuple[int, int]) -> None:
    box = fit(np.zeros((*shape, 3), np.uint8), 20, 20)
    rows, columns = np.nonzero((box == 0).all(axis=2))
    assert box.shape == (20, 20, 3) and len(rows) == inside[0] * inside[1]
    assert abs(rows.min() - (19 - rows.max())) <= 1 and abs(columns.min() - (19 - columns.max())) <= 1


def test_a_sheet_shows_every_picture_in_its_cell_and_the_legend_below() -> None:
    colours = [[(10, 20, 30), (40, 50, 60)], [(70, 80, 90), (100, 110, 120)]]
    rows = [[np.full((16, 20, 3), colour, np.uint8) for colour in row] for row in colours]
    sheet = np.asarray(contact_sheet(rows, ("a", "b"), [("cat", (1, 200, 3))], cell=(20, 16)))
    for line, row in enumerate(colours):
        for column, colour in enumerate(row):
            x, y = GAP + column * (20 + GAP), TITLE + line * (16 + GAP)
            assert (sheet[y : y + 16, x : x + 20] == colour).all()
    ys = np.nonzero((sheet == (1, 200, 3)).all(axis=2))[0]
    assert len(ys) and ys.min() >= TITLE + 2 * (16 + GAP)


def test_a_legend_names_what_is_there_and_nothing_else() -> None:
    assert legend_of(["background", "cat", "dog"], {2, 255}) == [
        ("dog", VOC_COLOURS[2]),
        ("ignored (255)", (255, 255, 255)),
    ]


@pytest.mark.parametrize(
    ("mask", "truth", "kind"),
    [(0, 0, 0), (3, 3, 1), (0, 3, 2), (3, 0, 3), (3, 4, 4), (255, 3, 5), (255, 0, 5), (3, 255, 6), (255, 255, 6)],
)
def test_difference_says_how_a_pixel_is_wrong(mask: int, truth: int, kind: int) -> None:
    one = difference(np.array([[mask]], np.uint8), np.array([[truth]], np.uint8), 21)
    assert tuple(one[0, 0]) == DIFFERENCES[kind][1]


def test_difference_without_background_knows_right_and_wrong() -> None:
    mask, truth = np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 0, 0]], np.uint8)
    expected = [DIFFERENCES[kind][1] for kind in (1, 4, 4, 5)]
    assert [tuple(colour) for colour in difference(mask, truth, 2, has_background=False)[0]] == expected


def test_class_0_is_tinted_where_there_is_no_background() -> None:
    photo, labels = np.full((2, 2, 3), 200, np.uint8), np.zeros((2, 2), np.uint8)
    assert np.array_equal(label_overlay(photo, labels), photo)
    assert (label_overlay(photo, labels, has_background=False) < photo).all()
