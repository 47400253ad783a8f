"""The parts of selective search against loops; the reference's label maps are compared in benchmarks/parity."""

import numpy as np

from tests.support import photo
from zsseg import selective_search as ours

LABELS = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [3, 2, 2, 4], [3, 3, 5, 5]])


def test_neighbours_touch_at_a_side_or_a_corner() -> None:
    wanted: dict[int, set[int]] = {label: set() for label in range(6)}
    for y in range(4):
        for x in range(4):
            for v in range(max(0, y - 1), min(4, y + 2)):
                for u in range(max(0, x - 1), min(4, x + 2)):
                    wanted[LABELS[y, x]] |= {int(LABELS[v, u])} - {int(LABELS[y, x])}
    assert ours.neighbours_of(LABELS) == wanted


def test_histograms_are_numpys() -> None:
    values = np.random.default_rng(0).integers(0, 300, (4, 4, 3))  # what exceeds 255 does not count
    values[0, 0] = (0, 255, 51)
    found = ours.histograms(values, LABELS, 6, 25)
    for label in range(6):
        parts = [np.histogram(values[label == LABELS][:, c], bins=25, range=(0, 255))[0] for c in range(3)]
        whole = np.concatenate(parts)
        assert np.allclose(found[label], whole / max(1, whole.sum()))
    assert not ours.histograms(np.full((4, 4, 3), 300), LABELS, 6, 25).any()


def test_regions_merge_down_to_the_likeness_that_is_asked_for() -> None:
    picture = photo((96, 120), 3)
    counts = []
    for least in (1.0, 0.75, 0.0):
        first, last = ours.search(picture, least)
        counts.append(len(np.unique(last)))
        for label in np.unique(first):
            assert len(np.unique(last[first == label])) == 1, "a region was split"
        assert set(np.unique(last)) <= set(np.unique(first))
    assert counts[0] == len(np.unique(first)) and counts[0] >= counts[1] >= counts[2] == 1


def test_a_merged_region_is_the_region_of_both() -> None:
    hsv = ours.hsv_of(photo((48, 64), 1))
    labels = (np.arange(48)[:, None] // 16 * 4 + np.arange(64) // 16).astype(np.int64)
    parts = ours.regions_at_first(hsv, labels)
    joined = np.array([0, 1, 2, 3, 4, 0, *range(5, 11)])[labels]
    whole = ours.regions_at_first(hsv, joined)[0]
    found = ours.merged(parts[0], parts[5])
    assert (found.pixels, found.left, found.top, found.right, found.bottom) == (512, 0, 0, 31, 31)
    assert whole.pixels == 512 and np.allclose(found.colours, whole.colours)
    like = ours.likeness(parts[0], parts[5], labels.size)
    fill, size = 1 - (31 * 31 - 512) / 3072, 1 - 512 / 3072
    colours = np.minimum(parts[0].colours, parts[5].colours).sum()
    texture = np.minimum(parts[0].texture, parts[5].texture).sum()
    assert np.isclose(like, (fill + size + colours + texture) / 4)


def test_a_black_photo_is_one_region() -> None:
    assert len(np.unique(ours.search(np.zeros((40, 50, 3), np.uint8))[1])) == 1
