"""What a parity check is made of: a place with golden files, and rows that say how far ours are from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Place:
    """Where the golden files lie, the photos they were made of (a folder in VOC's layout), and the CLIP weights."""

    folder: Path
    photos: Path
    clip: Path

    def photo(self, image_id: str) -> Path:
        return self.photos / "JPEGImages" / f"{image_id}.jpg"

    def split(self) -> list[str]:
        return (self.folder / "split.txt").read_text(encoding="utf-8").split()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    compared  how many values
    distance  the largest difference, or the share of values that are not equal
    allowed   what `distance` may be at most
    """

    part: str
    compared: int
    distance: float
    allowed: float

    @property
    def agrees(self) -> bool:
        return self.compared > 0 and self.distance <= self.allowed  # False for nan


@dataclass(frozen=True)
class Part:
    """A piece of a golden folder: the files it compares, as patterns below the folder, and the comparison."""

    files: tuple[str, ...]
    rows: Callable[[Place], Iterator[Row]]


Parts = Mapping[str, Part]


class Distances:
    """The largest difference over many arrays, which makes one row."""

    def __init__(self) -> None:
        self.compared, self.largest = 0, 0.0

    def add(self, ours: npt.ArrayLike, theirs: npt.ArrayLike, relative: bool = False) -> None:
        """relative: differences are divided by the largest value of `theirs`. Another shape is infinitely far."""
        found, wanted = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        self.compared += wanted.size
        if found.shape != wanted.shape:
            self.largest = float("inf")
        elif wanted.size:
            apart = np.where(np.isnan(found) & np.isnan(wanted), 0.0, np.abs(found - wanted))
            scale = float(np.nanmax(np.abs(wanted))) or 1.0 if relative else 1.0
            self.largest = float(np.maximum(self.largest, apart.max() / scale))  # keeps nan

    def row(self, part: str, allowed: float) -> Row:
        return Row(part, self.compared, self.largest, allowed)


class Unequal:
    """The share of values that are not equal, over many integer arrays, which makes one row."""

    def __init__(self) -> None:
        self.compared, self.different = 0, 0

    def add(self, ours: npt.ArrayLike, theirs: npt.ArrayLike) -> None:
        """Another shape differs everywhere."""
        found, wanted = np.asarray(ours), np.asarray(theirs)
        self.compared += wanted.size
        self.different += wanted.size if found.shape != wanted.shape else int((found != wanted).sum())

    def row(self, part: str, allowed: float) -> Row:
        return Row(part, self.compared, self.different / max(self.compared, 1), allowed)
