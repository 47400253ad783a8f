"""Regions of an image, in three forms, and maps that are weighted sums of regions. Without torch.

LabelMap    every pixel in one region at most
RunLengths  masks that may overlap, as run lengths in COCO's form
SoftMasks   mask logits on a coarser grid and class probabilities, as a network gives them
Letters: Q regions, h w the size at which they lie, which may be another than the image's H W, k classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as rle  # type: ignore[import-untyped]

from pipeline.steps.maps import enlarge_labels, resize_maps, resized_rows, rows_below, shrink_maps

NO_REGION = 65535  # in a label map
MOST_REGIONS = 65535  # of an image
CHUNK_VALUES = 1 << 23  # of masks that are unpacked together; 32 MB
CHUNK_TEXT = 1 << 20  # signs of run lengths that are read together; some 100 MB
AT_ONCE = 255  # masks that pycocotools 2.0.11 counts together; with numpy 2 it fails for more
MOST_PIECES = 7  # of a number among run lengths

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive
Cut = Callable[[Box], np.ndarray]  # the weights (h', w') float32 of a region within a box


@dataclass(frozen=True)
class LabelMap:
    """labels (h, w) uint16: numbers of regions from 0 on, or NO_REGION; `count` regions, none of them empty."""

    labels: np.ndarray
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> LabelMap:
        """Of (h, w) integers with gaps between them; negative numbers are no region.

        Regions are numbered in the order of their values. Raises ValueError for more than MOST_REGIONS.
        """
        present, numbers = np.unique(values, return_inverse=True)
        without = int((present < 0).sum())
        count = len(present) - without
        if count > MOST_REGIONS:
            raise ValueError(f"{count} regions, more than {MOST_REGIONS}")
        order = np.arange(-without, count)
        order[:without] = NO_REGION
        return cls(order.astype(np.uint16)[numbers].reshape(values.shape), count)

    def __len__(self) -> int:
        return self.count

    @property
    def size(self) -> tuple[int, int]:
        return self.labels.shape[0], self.labels.shape[1]

    def each(self, threshold: float = 0.5) -> Iterator[tuple[int, Box, Cut]]:
        """Every region: its number, its box, and what cuts its weights, 0 or 1, out of a box."""
        from scipy import ndimage  # type: ignore[import-untyped]

        places = ndimage.find_objects(
            np.where(self.labels == NO_REGION, 0, self.labels.astype(np.int32) + 1), self.count
        )
        for number, place in enumerate(places):
            if place is not None:
                rows, columns = place

                def cut(box: Box, number: int = number) -> np.ndarray:
                    return (self.labels[box[1] : box[3], box[0] : box[2]] == number).astype(np.float32)

                yield number, (columns.start, rows.start, columns.stop, rows.stop), cut

    def sums(self, scores: np.ndarray, size: tuple[int, int], rows: slice) -> np.ndarray:
        """Rows of maps (k, H, W) float32 at any size: each pixel has the scores (Q, k) of its region, or 0."""
        table = np.zeros((self.count + 1, scores.shape[1]), np.float32)
        table[:-1] = scores
        labels = enlarge_labels(self.labels, size)[rows]
        return np.ascontiguousarray(table.T)[:, np.minimum(labels, self.count)]

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file."""
        small = self.count <= 256 and NO_REGION not in self.labels
        return {"labels": self.labels.astype(np.uint8) if small else self.labels}


@dataclass(frozen=True)
class RunLengths:
    """Q masks of any overlap; `counts` are the run lengths of each, as COCO's tools pack them."""

    size: tuple[int, int]
    counts: tuple[bytes, ...]

    @classmethod
    def of(cls, masks: Iterable[np.ndarray], size: tuple[int, int]) -> RunLengths:
        """Of masks (h, w) of any type; what is not 0 belongs to the region. Raises ValueError for too many."""
        counts = tuple(rle.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in masks)
        if len(counts) > MOST_REGIONS:
            raise ValueError(f"{len(counts)} regions, more than {MOST_REGIONS}")
        return cls(size, counts)

    def __len__(self) -> int:
        return len(self.counts)

    def _packed(self, part: slice) -> list[dict[str, Any]]:
        return [{"size": list(self.size), "counts": counts} for counts in self.counts[part]]

    def planes(self, part: slice) -> np.ndarray:
        """Some masks, (n, h, w) uint8 of 0 and 1."""
        return np.moveaxis(rle.decode(self._packed(part)), -1, 0)

    def each(self, threshold: float = 0.5) -> Iterator[tuple[int, Box, Cut]]:
        """As of LabelMap; regions without a pixel are left out."""
        if not self.counts:
            return
        for number, pixels in enumerate(self.areas()):
            if pixels:
                left, top, width, height = map(int, rle.toBbox(self._packed(slice(number, number + 1)))[0])

                def cut(box: Box, number: int = number) -> np.ndarray:
                    plane = self.planes(slice(number, number + 1))[0]
                    return plane[box[1] : box[3], box[0] : box[2]].astype(np.float32)

                yield number, (left, top, left + width, top + height), cut

    def sums(self, scores: np.ndarray, size: tuple[int, int], rows: slice) -> np.ndarray:
        """Rows of maps (k, H, W) float32: the mean of the scores (Q, k) of all regions that cover a pixel, or 0."""
        return _at_size(self.size, size, rows, lambda own: self._own_sums(scores, own))

    def _own_sums(self, scores: np.ndarray, rows: slice) -> np.ndarray:
        total, covering = added(self, scores, rows)
        return total / np.maximum(covering, 1)

    def runs(self, numbers: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The runs of pixels of some masks, in this order, in bounded parts.

        Each is three arrays (R,) int64: the number of the mask, and where the run starts and ends among the pixels
        counted column by column.
        """
        order = np.asarray(numbers, np.int64)
        for part in chunks(np.array([len(self.counts[number]) for number in order], np.int64)):
            texts = [self.counts[number] for number in order[part]]
            ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
            packed = np.frombuffer(b"".join(texts), np.uint8)
            owners, lengths = unpacked_lengths(packed, np.concatenate([[0], ends[:-1]]), ends)
            stops = np.cumsum(lengths) - owners * (self.size[0] * self.size[1])
            place = _places(owners, len(texts))
            inside = (place % 2 == 1) & (lengths > 0)
            yield order[part][owners[inside]], (stops - lengths)[inside], stops[inside]

    def areas(self) -> np.ndarray:
        """(Q,) int64 pixels of each."""
        parts = (slice(start, start + AT_ONCE) for start in range(0, len(self), AT_ONCE))
        return np.concatenate([np.zeros(0, np.int64), *(rle.area(self._packed(part)) for part in parts)])

    def arrays(self) -> dict[str, np.ndarray]:
        ends = np.cumsum([len(counts) for counts in self.counts], dtype=np.int64)
        packed = np.frombuffer(b"".join(self.counts), np.uint8)
        return {"counts": packed, "ends": ends, "grid": np.array(self.size, np.int32)}


@dataclass(frozen=True)
class SoftMasks:
    """Q masks of weights between 0 and 1: the sigmoid of logits that are scaled up bilinearly.

    logits         (Q, h', w') float, of the padded image
    padded         (h, w) of the padded image; what lies beyond `size`, below and to the right, is cut off
    probabilities  (Q, K) of all classes, what is left to 1 is "no object"; None once they are part of the scores
    views          looks at the photo that the masks come from, which share the scores
    """

    size: tuple[int, int]
    logits: np.ndarray
    padded: tuple[int, int]
    probabilities: np.ndarray | None = None
    views: int = 1

    def __len__(self) -> int:
        return len(self.logits)

    def planes(self, part: slice) -> np.ndarray:
        """Some masks, (n, h, w) float32."""
        height, width = self.size
        logits = resize_maps(self.logits[part], self.padded)[:, :height, :width]
        with np.errstate(over="ignore"):  # exp of a large number is inf, and its weight 0
            return 1 / (1 + np.exp(-logits))

    def each(self, threshold: float = 0.5) -> Iterator[tuple[int, Box, Cut]]:
        """As of LabelMap: a region's box holds what lies above the threshold, its weights are as they are."""
        for number in range(len(self)):
            plane = self.planes(slice(number, number + 1))[0]
            if box := box_of(plane > threshold):

                def cut(box: Box, plane: np.ndarray = plane) -> np.ndarray:
                    return plane[box[1] : box[3], box[0] : box[2]]

                yield number, box, cut

    def sums(self, scores: np.ndarray, size: tuple[int, int], rows: slice) -> np.ndarray:
        """Rows of maps (k, H, W) float32: the scores (Q, k) of all regions by their weights, of a sum of at most 1."""
        maps = _at_size(self.size, size, rows, lambda own: added(self, scores, own)[0])
        return maps / np.maximum(maps.sum(axis=0), 1)

    def arrays(self) -> dict[str, np.ndarray]:
        more = {} if self.probabilities is None else {"probabilities": self.probabilities.astype(np.float32)}
        shapes = {"grid": np.array(self.size, np.int32), "padded": np.array(self.padded, np.int32)}
        return {"logits": self.logits.astype(np.float16), **shapes, **more}


Regions = LabelMap | RunLengths | SoftMasks


def box_of(mask: np.ndarray) -> Box | None:
    """The box around the pixels of a mask (h, w); None without any."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def added(regions: RunLengths | SoftMasks, scores: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """(k, rows, w): the masks' rows, each times its scores, added up; and (rows, w), the masks themselves added up.

    A bounded number of masks is unpacked at a time.
    """
    height, width = len(range(*rows.indices(regions.size[0]))), regions.size[1]
    total = np.zeros((scores.shape[1] + 1, height * width), np.float32)
    weights = np.concatenate([scores, np.ones((len(scores), 1))], axis=1).astype(np.float32)
    step = max(1, CHUNK_VALUES // (regions.size[0] * width))
    for start in range(0, len(regions), step):
        part = slice(start, start + step)
        planes = regions.planes(part)[:, rows].reshape(-1, height * width)
        total += weights[part].T @ planes.astype(np.float32)
    total = total.reshape(-1, height, width)
    return total[:-1], total[-1]


def _at_size(
    own: tuple[int, int], size: tuple[int, int], rows: slice, sums: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """Rows of maps at `size`, from a function that gives rows of the same maps at their own size."""
    if own == size:
        return sums(rows)
    if size[0] * size[1] < own[0] * own[1]:
        return shrink_maps(sums(slice(0, own[0])), size)[:, rows]
    needed = rows_below(own[0], size[0], rows)
    return resized_rows(sums(needed), size, rows, needed.start, own[0])


def regions_of(arrays: Mapping[str, np.ndarray]) -> Regions:
    """The regions that `arrays` made. Raises ValueError for anything else."""
    if "labels" in arrays:
        labels = arrays["labels"]
        if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16) or not labels.size:
            raise ValueError("`labels` that are no map of small integers")
        labels = labels.astype(np.uint16)
        inside = labels[labels != NO_REGION]
        return LabelMap(labels, int(inside.max()) + 1 if inside.size else 0)
    size = _size(arrays, "grid")
    if "counts" in arrays:
        return RunLengths(size, _unpacked(arrays["counts"], arrays["ends"], size))
    logits, probabilities = arrays["logits"], arrays.get("probabilities")
    if logits.ndim != 3 or logits.dtype.kind != "f" or (not logits[:1].size and len(logits)):
        raise ValueError("`logits` that are no maps")
    if probabilities is not None and (probabilities.ndim != 2 or len(probabilities) != len(logits)):
        raise ValueError("`probabilities` of another number of regions")
    padded = _size(arrays, "padded")
    if padded[0] < size[0] or padded[1] < size[1] or max(padded) > 2 * max(size) + 1024:
        raise ValueError(f"a padded image of {padded} around one of {size}")
    if not np.isfinite(logits).all():
        raise ValueError("logits that are not finite")
    return SoftMasks(size, logits, padded, probabilities)


def _size(arrays: Mapping[str, np.ndarray], name: str) -> tuple[int, int]:
    size = arrays[name]
    if size.shape != (2,) or size.dtype.kind not in "iu" or size.min() < 1:
        raise ValueError(f"`{name}` that is no height and width")
    return int(size[0]), int(size[1])


def _unpacked(packed: np.ndarray, ends: np.ndarray, size: tuple[int, int]) -> tuple[bytes, ...]:
    """The run lengths of each mask. They are read here once, because COCO's code trusts them to fit the size."""
    whole = packed.ndim == ends.ndim == 1 and packed.dtype == np.uint8 and ends.dtype.kind in "iu"
    starts = np.concatenate([[0], ends[:-1]]) if whole else ends
    if not whole or len(ends) > MOST_REGIONS or (starts > ends).any() or (len(ends) and ends[-1] != len(packed)):
        raise ValueError("`counts` and `ends` that are no run lengths")
    for part in chunks(np.diff(ends, prepend=0)):
        owners, lengths = unpacked_lengths(packed, starts[part], ends[part])
        covered = np.bincount(owners, weights=lengths.clip(-1), minlength=part.stop - part.start)
        covered[owners[lengths < 0]] = -1
        if len(wrong := np.flatnonzero(covered != size[0] * size[1])):
            number = part.start + int(wrong[0])
            raise ValueError(f"run lengths of mask {number} that are not those of {size[0]} x {size[1]} pixels")
    data = packed.tobytes()
    return tuple(data[start:end] for start, end in zip(starts, ends))


def chunks(sizes: np.ndarray) -> Iterator[slice]:
    """Parts of a list of texts of these lengths, of CHUNK_TEXT signs at most or one text each."""
    ends, start = np.cumsum(sizes), 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK_TEXT, side="right")))
        yield slice(start, stop)
        start = stop


def unpacked_lengths(packed: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask that each run belongs to, and the run's length in pixels, both (R,) int64; -1 among those of a text
    that holds no run lengths.

    packed        (n,) uint8, the texts of all masks one after the other
    starts, ends  (Q,) of those that are asked for, which lie one after the other
    A text has numbers in pieces of five bits, from the lowest on, as signs from "0" on; the sixth bit says that more
    follow, the fifth of the last one is the number's sign. From the fourth on a number is the difference to the one
    two places before.
    """
    sizes = (ends - starts).astype(np.int64)
    packed = packed[int(starts[0]) : int(ends[-1])]
    ends = ends.astype(np.int64) - int(starts[0])
    of_piece = np.repeat(np.arange(len(sizes)), sizes)
    pieces = packed.astype(np.int64) - 48
    unfinished = sizes > 0
    unfinished[unfinished] = (pieces[ends[unfinished] - 1] & 32) != 0
    bad = np.unique(np.concatenate([of_piece[(pieces < 0) | (pieces > 63)], np.flatnonzero(unfinished)]))
    if len(bad) or not len(pieces):
        return bad, np.full(len(bad), -1)
    last = np.flatnonzero(pieces & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    owners, lengths = of_piece[last], last + 1 - first
    if (lengths > MOST_PIECES).any():
        bad = np.unique(owners[lengths > MOST_PIECES])
        return bad, np.full(len(bad), -1)
    shifts = 5 * (np.arange(len(pieces)) - np.repeat(first, lengths))
    values = np.add.reduceat((pieces & 31) << shifts, first) - ((pieces[last] & 16) >> 4 << 5 * lengths)
    place = _places(owners, len(sizes))
    for parity in (1, 0):
        chain = np.flatnonzero((place % 2 == parity) & (place > 0))
        sums, begins = np.cumsum(values[chain]), np.flatnonzero(place[chain] <= 2)
        before = np.concatenate([[0], sums])[begins]
        values[chain] = sums - np.repeat(before, np.diff(np.append(begins, len(chain))))
    return owners, values


def _places(owners: np.ndarray, count: int) -> np.ndarray:
    """The place of each run among those of its mask; the runs of the `count` masks lie one after the other."""
    counts = np.bincount(owners, minlength=count)
    return np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclass(frozen=True)
class RegionMaps:
    """Maps (k, H, W) of an image as regions and their scores: what a method that classifies regions gives.

    scores  (Q, k) float; of a region without score all are 0
    """

    regions: Regions
    scores: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, h, w), as an array of maps at the regions' own size would have it."""
        return (self.scores.shape[1], *self.regions.size)

    @property
    def dtype(self) -> np.dtype:
        """Of the scores."""
        return self.scores.dtype

    def astype(self, dtype: type) -> RegionMaps:
        """As they come out of a file of that type."""
        regions = self.regions
        if isinstance(regions, SoftMasks):
            regions = replace(regions, logits=regions.logits.astype(dtype), probabilities=None)
        return RegionMaps(regions, self.scores.astype(dtype))

    def rows(self, size: tuple[int, int], rows: slice) -> np.ndarray:
        """Some rows of the maps at a size (H, W), (k, rows, W) float32."""
        return self.regions.sums(self.scores.astype(np.float32), size, rows)

    def resized(self, size: tuple[int, int]) -> np.ndarray:
        """(k, H, W) float32."""
        return self.rows(size, slice(0, size[0]))

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file."""
        regions = self.regions
        kept = replace(regions, probabilities=None) if isinstance(regions, SoftMasks) else regions
        return {"scores": self.scores.astype(np.float16), **kept.arrays()}


def resized_maps(maps: np.ndarray | RegionMaps, size: tuple[int, int]) -> np.ndarray:
    """Maps on a grid, or of regions, at a size: (k, H, W) float32."""
    return maps.resized(size) if isinstance(maps, RegionMaps) else resize_maps(maps, size)


def fitted(regions: Regions, size: tuple[int, int], *others: tuple[int, int]) -> Regions:
    """Regions at the size at which a photo is worked on, from this or one of the other sizes that they may have.

    By nearest neighbour; regions that vanish stay in the count, and soft masks at their own size. Raises ValueError
    for regions of another photo.
    """
    if regions.size == size or isinstance(regions, SoftMasks):
        return regions
    if regions.size not in others:
        sizes = " or ".join(f"{height} x {width}" for height, width in dict.fromkeys((*others, size)))
        raise ValueError(f"regions of a photo of {regions.size[0]} x {regions.size[1]} pixels, this one has {sizes}")
    if isinstance(regions, LabelMap):
        return LabelMap(enlarge_labels(regions.labels, size), regions.count)
    singles = (regions.planes(slice(number, number + 1))[0] for number in range(len(regions)))
    return RunLengths.of((enlarge_labels(mask, size) for mask in singles), size)
