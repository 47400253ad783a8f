"""Masks without classes vote on labels (docs/methods.md, section 9). Without torch.

majority      every pixel belongs to the smallest mask that covers it; what is seen of a mask takes its most frequent
              label (the vote of CorrCLIP, Zhang et al., ICCV 2025, which paints large masks over small ones)
max-iou       a class takes every mask of which more than half is the class, and is the union of these masks (SEPL,
              Chen et al., NeurIPS workshop 2023); -imp: and its pixels that no mask covers; -imp2: it also takes masks
              that cover 85 % of the class
Labels are mask values, (H, W) uint8; 255 is no class.
"""

import numpy as np

from dataset.spec import IGNORE_INDEX
from pipeline.steps.maps import enlarge_labels
from pipeline.steps.regions import NO_REGION, LabelMap, Regions, RunLengths, SoftMasks

COVERING = 0.85  # of a class, in the last of them
THRESHOLD = 0.5  # of soft masks


def voted(
    labels: np.ndarray, regions: Regions, rule: str = "majority", has_background: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The labels (H, W) after the vote, and the number (H, W) uint16 of the region that decided each pixel.

    NO_REGION where none did. Regions may lie at another size than the labels: then the labels are brought to it, and
    the result back, by nearest neighbour.
    """
    at_regions = enlarge_labels(labels, regions.size)
    if rule == "majority":
        numbers = painted(regions)
        result = majority(at_regions, numbers)
    else:
        result, numbers = max_iou(at_regions, regions, rule, has_background)
    return enlarge_labels(result, labels.shape), enlarge_labels(numbers, labels.shape)


def majority(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The labels (H, W) with the most frequent one of each region in all of it.

    numbers  (H, W) the region of each pixel; NO_REGION keep their label
    255 wins where it has more than half of a region, and does not count elsewhere. Of equals the lowest wins.
    """
    inside = numbers != NO_REGION
    if not inside.any():
        return labels.copy()
    values = np.flatnonzero(np.bincount(labels[inside], minlength=256))
    code = np.zeros(256, np.int64)
    code[values] = np.arange(len(values))
    owners = numbers[inside].astype(np.int64)
    votes = np.bincount(owners * len(values) + code[labels[inside]], minlength=(owners.max() + 1) * len(values))
    votes = votes.reshape(-1, len(values))
    if values[-1] == IGNORE_INDEX:
        votes[:, -1] = np.where(2 * votes[:, -1] > votes.sum(axis=1), votes[:, -1], 0)
    result = labels.copy()
    result[inside] = values.astype(np.uint8)[votes.argmax(axis=1)][owners]
    return result


def painted(regions: Regions) -> np.ndarray:
    """(h, w) uint16: the number of the smallest region that covers a pixel, of equals the first; NO_REGION: none."""
    if isinstance(regions, LabelMap):
        return regions.labels
    masks = _as_runs(regions)
    areas = masks.areas()
    return _paint(masks, [number for number in _large_first(areas) if areas[number]])


def max_iou(
    labels: np.ndarray, regions: Regions, rule: str, has_background: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The labels (h, w) by one of the max-iou rules, and the number (h, w) of the taken region of each pixel.

    Classes choose in the order of their values, a mask is taken once, and later classes overwrite earlier ones. A class
    that takes no mask keeps its pixels. What nobody takes becomes background; without a background class, and where the
    label is 255, it stays as it is.
    """
    masks = _as_runs(regions)
    areas = masks.areas()
    free, covered = areas > 0, painted(masks) != NO_REGION
    classes = [int(value) for value in np.unique(labels) if value != IGNORE_INDEX and (value or not has_background)]
    result = np.where(labels == IGNORE_INDEX, labels, 0).astype(np.uint8) if has_background else labels.copy()
    numbers = np.full(labels.shape, NO_REGION, np.uint16)
    for value in classes:
        own = labels == value
        counts = _counts(masks, own)
        takes = free & (2 * counts > areas)
        if rule == "max-iou-imp2":
            takes |= free & (counts >= COVERING * np.count_nonzero(own))
        free &= ~takes
        region = own if not takes.any() else own & ~covered & (rule != "max-iou")
        result[region], numbers[region] = value, NO_REGION
        seen = _paint(masks, [number for number in _large_first(areas) if takes[number]])
        taken = seen != NO_REGION
        result[taken], numbers[taken] = value, seen[taken]
    return result, numbers


def sureness(highest: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """How sure each pixel (H, W) is after a vote: its highest probability, and in a region the region's upper median.

    So `majority` makes a region 255 at a threshold where this lies below it.
    """
    result = highest.copy()
    inside = np.flatnonzero(numbers != NO_REGION)
    owners, values = numbers.ravel()[inside], highest.ravel()[inside]
    order = np.lexsort((values, owners))
    _, which, counts = np.unique(owners, return_inverse=True, return_counts=True)
    begins = np.cumsum(counts) - counts
    result.ravel()[inside] = values[order][begins + counts // 2][which]
    return result


def win(probabilities: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Probabilities (k, H, W) of the mask values (k,), in which these labels (H, W) win.

    The label and what was best before exchange their probabilities, so that a pixel is as sure as it was.
    """
    place = np.zeros(256, np.int64)
    place[values] = np.arange(len(values))
    winner, best = place[labels][None], probabilities.argmax(axis=0)[None]
    result = probabilities.copy()
    np.put_along_axis(result, best, np.take_along_axis(probabilities, winner, 0), 0)
    np.put_along_axis(result, winner, np.take_along_axis(probabilities, best, 0), 0)
    return result


def _large_first(areas: np.ndarray) -> list[int]:
    """The numbers of regions from the largest to the smallest; of equals the first comes last."""
    return [int(number) for number in np.argsort(areas, kind="stable")[::-1]]


def _as_runs(regions: Regions) -> RunLengths:
    if isinstance(regions, SoftMasks):
        singles = (regions.planes(slice(number, number + 1))[0] > THRESHOLD for number in range(len(regions)))
        return RunLengths.of(singles, regions.size)
    if isinstance(regions, LabelMap):
        return RunLengths.of((regions.labels == number for number in range(regions.count)), regions.size)
    return regions


def _paint(masks: RunLengths, order: list[int]) -> np.ndarray:
    """(h, w) uint16: the numbers of masks that are painted one after the other; NO_REGION where none is."""
    height, width = masks.size
    columns = np.full(width * height, NO_REGION, np.uint16)
    for numbers, starts, stops in masks.runs(order):
        for number, start, stop in zip(numbers.tolist(), starts.tolist(), stops.tolist()):
            columns[start:stop] = number
    return np.ascontiguousarray(columns.reshape(width, height).T)


def _counts(masks: RunLengths, own: np.ndarray) -> np.ndarray:
    """(Q,) pixels of each mask that are marked in (h, w) bool."""
    before = np.concatenate([[0], np.cumsum(own.T.ravel())])
    counts = np.zeros(len(masks))
    for numbers, starts, stops in masks.runs(range(len(masks))):
        counts += np.bincount(numbers, weights=before[stops] - before[starts], minlength=len(masks))
    return counts.astype(np.int64)
