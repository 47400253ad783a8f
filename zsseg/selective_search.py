"""Selective search (Uijlings et al., IJCV 2013) as zsseg.baseline has it: small regions merge while they are alike.

Two regions are as alike as the mean of four numbers says: colours, texture, size, and how well they fill their box.
Ties: of several most alike pairs the first in the list merges. The list begins with the pairs of the first region, in
the order of their labels; a merged region's pairs join at its end, in the order of their labels. The merged region
keeps the first label of its pair: the smaller one of the pairs that there were at the beginning, later the label that
merged last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALE, SIGMA, MIN_SIZE = 20, 0.8, 1000  # of the segmentation at the beginning
COLOUR_BINS, TEXTURE_BINS = 25, 80  # a channel, over 0 to 255
POINTS, RADIUS = 24, 3  # of the local binary patterns


@dataclass
class Region:
    """A region while it grows: pixels, box (first and last column and row), histograms of sum 1 (or 0)."""

    pixels: int
    left: int
    top: int
    right: int
    bottom: int
    colours: np.ndarray
    texture: np.ndarray
    neighbours: set[int]


def hsv_of(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB to HSV, uint8: all channels together stretched to 0..255."""
    from skimage.color import rgb2hsv

    hsv = rgb2hsv(rgb)
    hsv -= hsv.min()
    highest = hsv.max()
    return (hsv / highest * 255 if highest else hsv).astype(np.uint8)


def first_regions(hsv: np.ndarray) -> np.ndarray:
    """(h, w) labels from 0 on without gaps."""
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(hsv, scale=SCALE, sigma=SIGMA, min_size=MIN_SIZE)


def histograms(values: np.ndarray, labels: np.ndarray, count: int, bins: int) -> np.ndarray:
    """(count, 3 * bins): of every region the values (h, w, 3) from 0 to 255, of sum 1; other values do not count."""
    edges, result = np.linspace(0, 255, bins + 1), np.zeros((count, 3, bins))
    for channel in range(3):
        plane = values[..., channel]
        inside = plane <= 255
        places = np.minimum(np.searchsorted(edges, plane[inside], side="right") - 1, bins - 1)
        result[:, channel] = np.bincount(labels[inside] * bins + places, minlength=count * bins).reshape(count, bins)
    flat = result.reshape(count, -1)
    sums = flat.sum(axis=1, keepdims=True)
    return flat / np.where(sums == 0, 1, sums)


def patterns(hsv: np.ndarray) -> np.ndarray:
    """Local binary patterns of each channel (h, w, 3); only the few codes up to 255 will count."""
    from skimage.feature import local_binary_pattern

    return np.stack([local_binary_pattern(hsv[..., channel], POINTS, RADIUS) for channel in range(3)], axis=-1)


def regions_at_first(hsv: np.ndarray, labels: np.ndarray) -> dict[int, Region]:
    """Every region of the labels, by label."""
    from scipy import ndimage  # type: ignore[import-untyped]

    count = int(labels.max()) + 1
    colours = histograms(hsv, labels, count, COLOUR_BINS)
    texture = histograms(patterns(hsv), labels, count, TEXTURE_BINS)
    pixels, neighbours = np.bincount(labels.ravel(), minlength=count), neighbours_of(labels)
    regions = {}
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels + 1)):
        box = columns.start, rows.start, columns.stop - 1, rows.stop - 1
        regions[label] = Region(int(pixels[label]), *box, colours[label], texture[label], neighbours[label])
    return regions


def neighbours_of(labels: np.ndarray) -> dict[int, set[int]]:
    """The labels that touch each label, at a corner too."""
    result: dict[int, set[int]] = {int(label): set() for label in np.unique(labels)}
    sides = ((slice(None, -1), slice(1, None)), (slice(None), slice(None)), (slice(1, None), slice(None, -1)))
    both = slice(None)
    shifts = [(sides[0], (both, both)), ((both, both), sides[0]), (sides[0], sides[0]), (sides[0], sides[2])]
    for rows, columns in shifts:
        one, other = labels[rows[0], columns[0]], labels[rows[1], columns[1]]
        touching = one != other
        for a, b in np.unique(np.stack([one[touching], other[touching]], axis=1), axis=0).tolist():
            result[a].add(b)
            result[b].add(a)
    return result


def likeness(a: Region, b: Region, pixels: int) -> float:
    """From 0 to 1, in an image of so many pixels."""
    both = a.pixels + b.pixels
    box = (max(a.right, b.right) - min(a.left, b.left)) * (max(a.bottom, b.bottom) - min(a.top, b.top))
    colours, texture = (np.minimum(*pair).sum() for pair in ((a.colours, b.colours), (a.texture, b.texture)))
    return float(1 - both / pixels + colours + texture + 1 - (box - both) / pixels) / 4


def merged(a: Region, b: Region) -> Region:
    """Without neighbours yet."""
    box = min(a.left, b.left), min(a.top, b.top), max(a.right, b.right), max(a.bottom, b.bottom)
    pairs = (a.colours, b.colours), (a.texture, b.texture)
    colours, texture = (one * a.pixels + other * b.pixels for one, other in pairs)
    colours, texture = colours / (colours.sum() or 1), texture / (texture.sum() or 1)
    return Region(a.pixels + b.pixels, *box, colours, texture, set())


def merge_all(labels: np.ndarray, regions: dict[int, Region], least: float) -> np.ndarray:
    """The labels (h, w) after all merging, with gaps between them; `regions` are used up."""
    pixels, now = labels.size, np.arange(int(labels.max()) + 1)
    pairs = {
        (label, other): likeness(region, regions[other], pixels)
        for label, region in sorted(regions.items())
        for other in sorted(region.neighbours)
        if other > label
    }
    while pairs:
        (kept, gone), highest = max(pairs.items(), key=lambda item: item[1])  # the first of equals
        if highest < least:
            break
        region = merged(regions[kept], regions[gone])
        region.neighbours = (regions[kept].neighbours | regions[gone].neighbours) - {kept, gone}
        del regions[gone]
        regions[kept] = region
        now[now == gone] = kept
        pairs = {pair: value for pair, value in pairs.items() if not {kept, gone} & set(pair)}
        for other in sorted(region.neighbours):
            regions[other].neighbours = (regions[other].neighbours - {gone}) | {kept}
            pairs[kept, other] = likeness(region, regions[other], pixels)
    return now[labels]


def search(rgb: np.ndarray, least: float = 0.65) -> tuple[np.ndarray, np.ndarray]:
    """The labels (h, w) at the beginning and after all merging, of a photo (h, w, 3) uint8 RGB."""
    hsv = hsv_of(rgb)
    labels = first_regions(hsv)
    return labels, merge_all(labels, regions_at_first(hsv, labels), least)
