"""Regions in their three forms against loops over pixels, and their arrays against damage."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.steps.regions import (
    MOST_REGIONS,
    NO_REGION,
    LabelMap,
    RegionMaps,
    Regions,
    RunLengths,
    SoftMasks,
    box_of,
    fitted,
    regions_of,
)
from tests.support import bilinear

SIZE = (23, 31)
RANDOM = np.random.default_rng(5)
VALUES = RANDOM.choice(np.array([-3, 2, 7, 8, 300]), SIZE)
MASKS = RANDOM.random((4, *SIZE)) < np.array([0.5, 0.1, 0, 1])[:, None, None]  # one empty, one full
LOGITS = RANDOM.normal(0, 4, (3, 8, 10)).astype(np.float32)
FORMS: dict[str, Regions] = {
    "labels": LabelMap.of(VALUES),
    "runs": RunLengths.of(MASKS, SIZE),
    "soft": SoftMasks(SIZE, LOGITS, (32, 40)),
}


def soft_planes() -> np.ndarray:
    """(3, *SIZE) by a loop over pixels."""
    return np.stack([1 / (1 + np.exp(-bilinear(plane, (32, 40))[: SIZE[0], : SIZE[1]])) for plane in LOGITS])


def naive(form: str, scores: np.ndarray, limited: bool = True) -> np.ndarray:
    """(k, *SIZE): pixel by pixel; of soft masks the sums, `limited` to 1."""
    planes = {
        "labels": np.stack([value == VALUES for value in (2, 7, 8, 300)]),
        "runs": MASKS,
        "soft": soft_planes(),
    }[form]
    maps = np.zeros((scores.shape[1], *SIZE))
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            weights = planes[:, y, x].astype(float)
            total = sum(weight * row for weight, row in zip(weights, scores))
            covering = weights.sum() if form == "runs" else total.sum() if limited else 0
            maps[:, y, x] = total / max(1, covering)
    return maps


@pytest.mark.parametrize("form", FORMS)
def test_maps_are_sums_of_regions(form: str) -> None:
    scores = RANDOM.dirichlet(np.ones(5), len(FORMS[form]))[:, :4]
    maps, wanted = RegionMaps(FORMS[form], scores), naive(form, scores)
    assert maps.shape == wanted.shape
    assert np.abs(maps.resized(SIZE) - wanted).max() < 2e-6
    assert np.abs(maps.rows(SIZE, slice(5, 9)) - wanted[:, 5:9]).max() < 2e-6
    assert np.abs(maps.astype(np.float16).resized(SIZE) - wanted).max() < 2e-3
    larger = maps.resized((37, 50))
    if form == "labels":  # nearest: pixels keep one region
        rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((37, 50), SIZE))
        assert np.abs(larger - wanted[:, rows][:, :, columns]).max() < 2e-6
    else:
        sums = bilinear(naive(form, scores, limited=False).transpose(1, 2, 0), (37, 50)).transpose(2, 0, 1)
        assert np.abs(larger - sums / np.maximum(1, sums.sum(axis=0))).max() < 1e-5
    for rows in (slice(0, 1), slice(11, 20), slice(36, 37)):
        assert np.abs(maps.rows((37, 50), rows) - larger[:, rows]).max() < 1e-5
    smaller = maps.resized((9, 11))
    assert smaller.shape == (4, 9, 11) and smaller.min() >= -1e-6 and smaller.sum(axis=0).max() <= 1 + 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_boxes_and_cuts_are_those_of_the_masks(form: str) -> None:
    planes = {"labels": np.stack([v == VALUES for v in (2, 7, 8, 300)]), "runs": MASKS, "soft": soft_planes()}[form]
    found = {number: (box, cut((1, 2, 20, 13))) for number, box, cut in FORMS[form].each(0.7)}
    assert set(found) == {number for number, plane in enumerate(planes) if (plane > 0.7).any()}
    for number, (box, part) in found.items():
        ys, xs = np.nonzero(planes[number] > 0.7)
        assert box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == box_of(planes[number] > 0.7)
        assert part.dtype == np.float32 and np.abs(part - planes[number, 2:13, 1:20]).max() < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_arrays_come_back(form: str) -> None:
    regions = FORMS[form]
    again = regions_of(regions.arrays())
    scores = RANDOM.random((len(regions), 2)) / 2
    assert len(again) == len(regions)
    assert np.abs(RegionMaps(again, scores).resized(SIZE) - RegionMaps(regions, scores).resized(SIZE)).max() < 2e-3


def test_a_label_map_numbers_its_regions_in_the_order_of_their_values() -> None:
    labels = LabelMap.of(VALUES)
    for value, number in {-3: NO_REGION, 2: 0, 7: 1, 8: 2, 300: 3}.items():
        assert (labels.labels[value == VALUES] == number).all()
    assert len(LabelMap.of(np.full((2, 2), -1))) == 0
    small = LabelMap.of(np.arange(6).reshape(2, 3))
    assert small.arrays()["labels"].dtype == np.uint8 and LabelMap.of(VALUES).arrays()["labels"].dtype == np.uint16


def test_the_most_regions_fit_and_one_more_does_not() -> None:
    values = np.arange(MOST_REGIONS + 1).reshape(256, 256)
    with pytest.raises(ValueError, match="65536 regions, more than 65535"):
        LabelMap.of(values)
    most = LabelMap.of(np.minimum(values, MOST_REGIONS - 1))
    assert len(most) == MOST_REGIONS and len(regions_of(most.arrays())) == MOST_REGIONS
    assert sum(1 for _ in most.each()) == MOST_REGIONS


def test_ten_thousand_masks() -> None:
    random = np.random.default_rng(1)
    corners = random.integers(0, 40, (10_000, 2))

    def mask(corner: np.ndarray) -> np.ndarray:
        plane = np.zeros((60, 70), bool)
        plane[corner[0] : corner[0] + 9, corner[1] : corner[1] + 12] = True
        return plane

    regions = RunLengths.of(map(mask, corners), (60, 70))
    scores, covering = random.random((10_000, 2)), np.zeros((60, 70))
    total = np.zeros((2, 60, 70))
    for corner, row in zip(corners, scores):
        covering += mask(corner)
        total[:, mask(corner)] += row[:, None]
    found = RegionMaps(regions_of(regions.arrays()), scores).resized((60, 70))
    assert np.abs(found - total / np.maximum(covering, 1)).max() < 1e-4


def cut_off(arrays: dict[str, np.ndarray]) -> None:
    arrays["counts"] = arrays["counts"][:-2]
    arrays["ends"][-1] -= 2


def longer(arrays: dict[str, np.ndarray]) -> None:
    arrays["grid"][1] += 1


def other_signs(arrays: dict[str, np.ndarray]) -> None:
    arrays["counts"] = np.full_like(arrays["counts"], 255)


def backwards(arrays: dict[str, np.ndarray]) -> None:
    arrays["ends"] = arrays["ends"][::-1]


def no_grid(arrays: dict[str, np.ndarray]) -> None:
    arrays["grid"] = np.zeros(2, np.int32)


@pytest.mark.parametrize("damage", [cut_off, longer, other_signs, backwards, no_grid])
def test_damaged_run_lengths_are_refused(damage: Callable[[dict[str, np.ndarray]], None]) -> None:
    """COCO's code would read and write beyond its memory."""
    arrays = {name: np.array(value) for name, value in FORMS["runs"].arrays().items()}
    damage(arrays)
    with pytest.raises(ValueError, match=r"run lengths|height and width"):
        regions_of(arrays)


def test_damaged_soft_masks_and_labels_are_refused() -> None:
    soft = FORMS["soft"].arrays()
    for name, value in {
        "logits": np.full_like(soft["logits"], np.nan),
        "padded": np.array([8, 8]),
        "probabilities": np.zeros((9, 2)),
    }.items():
        with pytest.raises(ValueError, match=r"finite|padded|number of regions"):
            regions_of({**soft, name: value})
    with pytest.raises(ValueError, match="no map of small integers"):
        regions_of({"labels": np.zeros((2, 2))})


@pytest.mark.parametrize("form", ["labels", "runs"])
def test_regions_are_brought_to_the_size_of_the_photo(form: str) -> None:
    regions, scores = FORMS[form], np.eye(len(FORMS[form]))
    larger = fitted(regions, (46, 62), SIZE)
    assert larger.size == (46, 62)
    assert (
        RegionMaps(larger, scores).resized((46, 62))[:, ::2, ::2] == RegionMaps(regions, scores).resized(SIZE)
    ).all()
    assert fitted(regions, SIZE) is regions
    with pytest.raises(ValueError, match="of a photo of 23 x 31 pixels, this one has 40 x 50 or 20 x 25"):
        fitted(regions, (20, 25), (40, 50))


def test_probabilities_of_a_network_stay_until_they_are_scores() -> None:
    soft = replace(FORMS["soft"], probabilities=np.full((3, 4), 0.2))
    assert regions_of(soft.arrays()).probabilities.shape == (3, 4)
    assert "probabilities" not in RegionMaps(soft, np.zeros((3, 2))).arrays()
