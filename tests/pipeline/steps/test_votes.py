"""Votes of masks against loops over pixels that follow the rules as they are written."""

from collections import Counter

import numpy as np
import pytest

from pipeline.stages.refine import RULES
from pipeline.steps.regions import NO_REGION, LabelMap, Regions, RunLengths, SoftMasks
from pipeline.steps.votes import majority, sureness, voted, win

SIZE = (13, 17)
RANDOM = np.random.default_rng(3)
LABELS = RANDOM.choice(np.array([0, 3, 5, 255], np.uint8), SIZE, p=[0.4, 0.25, 0.2, 0.15])


def masks(count: int, seed: int) -> np.ndarray:
    """(count, *SIZE) bool: boxes that overlap; the first is empty, the second is all, two are equally large."""
    random = np.random.default_rng(seed)
    planes = np.zeros((count, *SIZE), bool)
    for plane in planes[2:]:
        top, left = random.integers(0, 9), random.integers(0, 12)
        plane[top : top + random.integers(1, 6), left : left + random.integers(1, 7)] = True
    planes[1] = True
    planes[-1, 2:4, 2:5], planes[-2, 2:5, 2:4] = True, True
    return planes


def naive_numbers(planes: np.ndarray) -> np.ndarray:
    numbers = np.full(SIZE, NO_REGION)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            covering = [number for number, plane in enumerate(planes) if plane[y, x]]
            if covering:
                numbers[y, x] = min(covering, key=lambda number: (planes[number].sum(), number))
    return numbers


def naive_majority(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    result = labels.copy()
    for number in set(numbers[numbers != NO_REGION].tolist()):
        members = labels[numbers == number].tolist()
        counts = Counter(members)
        if 2 * counts.pop(255, 0) > len(members):
            result[numbers == number] = 255
        else:
            result[numbers == number] = max(sorted(counts), key=lambda value: counts[value])
    return result


def naive_max_iou(labels: np.ndarray, planes: np.ndarray, rule: str, background: bool) -> np.ndarray:
    result = labels.copy()
    if background:
        result[labels != 255] = 0
    used: set[int] = set()
    for value in sorted(set(labels.ravel().tolist()) - {255} - ({0} if background else set())):
        own = labels == value
        taken = []
        for number, plane in enumerate(planes):
            both = (plane & own).sum()
            mostly = 2 * both > plane.sum() or (rule == "max-iou-imp2" and both >= 0.85 * own.sum())
            if plane.any() and number not in used and mostly:
                taken.append(number)
        used |= set(taken)
        if not taken:
            result[own] = value
            continue
        for number in taken:
            result[planes[number]] = value
        if rule != "max-iou":
            result[own & ~planes.any(axis=0)] = value
    return result


def forms(planes: np.ndarray) -> dict[str, Regions]:
    numbers = naive_numbers(planes)
    return {
        "runs": RunLengths.of(planes, SIZE),
        "soft": SoftMasks(SIZE, np.where(planes, 9.0, -9.0).astype(np.float32), SIZE),
        "labels": LabelMap.of(np.where(numbers == NO_REGION, -1, numbers)),
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_majority_of_each_mask_wins_small_masks_first(seed: int) -> None:
    planes = masks(9, seed) if seed else masks(9, seed)[2:]
    numbers = naive_numbers(planes)
    wanted = naive_majority(LABELS, numbers)
    for form, regions in forms(planes).items():
        labels, decided = voted(LABELS, regions)
        assert labels.dtype == np.uint8 and np.array_equal(labels, wanted), form
        assert np.array_equal(decided != NO_REGION, numbers != NO_REGION)
        if form != "labels":
            assert np.array_equal(decided, numbers)


@pytest.mark.parametrize("rule", RULES[1:])
@pytest.mark.parametrize("background", [True, False])
def test_classes_take_the_masks_that_are_mostly_theirs(rule: str, background: bool) -> None:
    changed = 0
    for seed in range(6):
        labels = np.repeat(np.repeat(LABELS[:5, :5], 3, axis=0), 4, axis=1)[: SIZE[0], : SIZE[1]].copy()
        planes = masks(12, seed)[(0 if seed else 2) :]
        wanted = naive_max_iou(labels, planes, rule, background)
        found, numbers = voted(labels, RunLengths.of(planes, SIZE), rule, background)
        assert np.array_equal(found, wanted), seed
        for number in np.unique(numbers[numbers != NO_REGION]):
            assert planes[number][numbers == number].all()
            assert len(np.unique(found[numbers == number])) == 1
        changed += int((found != labels).sum())
    assert changed > 50


def test_regions_of_another_size_vote_at_theirs() -> None:
    planes = masks(9, 1)
    small = LABELS[::2, ::2]
    regions = RunLengths.of(planes, SIZE)
    rows, columns = ((2 * np.arange(big) + 1) * of // (2 * big) for big, of in zip(SIZE, small.shape))
    wanted = naive_majority(small[rows][:, columns], naive_numbers(planes))
    back = [(2 * np.arange(of) + 1) * big // (2 * of) for big, of in zip(SIZE, small.shape)]
    assert np.array_equal(voted(small, regions)[0], wanted[back[0]][:, back[1]])


def test_without_masks_nothing_changes() -> None:
    for regions in (RunLengths(SIZE, ()), RunLengths.of(np.zeros((2, *SIZE), bool), SIZE)):
        labels, numbers = voted(LABELS, regions)
        assert np.array_equal(labels, LABELS) and (numbers == NO_REGION).all()


def test_a_region_is_unsure_where_more_than_half_of_it_is() -> None:
    """At every threshold: 255s that vote are those of a region that is as sure as `sureness` says."""
    numbers = naive_numbers(masks(9, 2)[2:])
    labels = naive_majority(np.where(LABELS == 255, 0, LABELS).astype(np.uint8), numbers)
    highest = RANDOM.random(SIZE).astype(np.float32)
    sure = sureness(highest, numbers.astype(np.uint16))
    for threshold in (0.0, 0.3, 0.5, 0.55, 0.9):
        mask = np.where(highest < threshold, np.uint8(255), labels)
        assert np.array_equal(majority(mask, numbers), np.where(sure < threshold, np.uint8(255), labels))


def test_the_label_that_won_a_vote_has_the_highest_probability() -> None:
    values = np.array([0, 4, 6], np.uint8)
    probabilities = RANDOM.dirichlet(np.ones(3), SIZE).transpose(2, 0, 1).astype(np.float32)
    labels = RANDOM.choice(values, SIZE)
    result = win(probabilities, labels, values)
    assert np.array_equal(values[result.argmax(axis=0)], labels)
    assert np.array_equal(np.sort(result, axis=0), np.sort(probabilities, axis=0))


def test_ten_thousand_masks_vote() -> None:
    """Against the same masks as a label map, painted one by one."""
    corners = np.random.default_rng(1).integers(0, 40, (10_000, 2))
    numbers = np.full((60, 70), NO_REGION)
    planes = np.zeros((10_000, 60, 70), bool)
    for number in reversed(range(10_000)):  # all are equally large: the first is painted last
        top, left = corners[number]
        planes[number, top : top + 9, left : left + 12] = True
        numbers[planes[number]] = number
    labels = np.random.default_rng(2).integers(0, 4, (60, 70)).astype(np.uint8)
    assert np.array_equal(voted(labels, RunLengths.of(planes, (60, 70)))[0], naive_majority(labels, numbers))
