"""Where the marks of the report page's charts lie; report/assets/charts.html.j2 draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 460, 320
LEFT, TOP, RIGHT, BOTTOM = 50, 14, 446, 272  # edges of the plotting area
CELLS = 22  # of the density picture, along each axis
BARS = 20
Point = tuple[float, float]  # shares in [0, 1]: to the right, upwards
Mark = dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """The axes of a chart: shares from `x_low` and `y_low` to 1."""

    x_low: float
    y_low: float
    x_title: str = "coverage: share of the pixels that are kept, %"
    y_title: str = "precision of what is kept, %"

    @classmethod
    def around(cls, points: Sequence[Point]) -> "Frame":
        """From the multiple of 5 % below the lowest values, 95 % at most."""
        x_low, y_low = (min((point[axis] for point in points), default=0.0) for axis in (0, 1))
        return cls(math.floor(20 * min(x_low, 0.95)) / 20, math.floor(20 * min(y_low, 0.95)) / 20)

    def x(self, share: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (share - self.x_low) / (1 - self.x_low), 2)

    def y(self, share: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (share - self.y_low) / (1 - self.y_low), 2)

    @property
    def x_ticks(self) -> list[float]:
        return _ticks(self.x_low)

    @property
    def y_ticks(self) -> list[float]:
        return _ticks(self.y_low)


def _ticks(low: float) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (1 - low) / step <= 6)
    return [number * step for number in range(math.ceil(low / step - 1e-9), round(1 / step) + 1)]


def class_points(confusion: np.ndarray) -> dict[int, Point]:
    """By label, of a (C, C+1) confusion matrix: coverage of its true pixels, precision of the pixels given to it."""
    points = {}
    for label, counts in enumerate(confusion):
        kept, predicted = counts[:-1].sum(), confusion[:, label].sum()
        if counts.sum() and predicted:
            points[label] = float(kept / counts.sum()), float(counts[label] / predicted)
    return points


def names_beside(frame: Frame, points: dict[int, Point], names: Sequence[str], overall: Point) -> list[Mark]:
    """Names beside their points, as many as fit without covering points or each other; the rest shows on hovering."""
    marks: list[Mark] = []
    taken = [(frame.x(x) - 6, frame.x(x) + 6, frame.y(y) + 4) for x, y in (overall, *points.values())]
    for label, at in sorted(points.items(), key=lambda item: item[1][1]):
        name = names[label]
        width, x, y = 6.4 * len(name), frame.x(at[0]), frame.y(at[1]) + 4
        right_of = x + 8 + width < RIGHT
        left = x + 8 if right_of else x - 8 - width
        if any(abs(y - other) < 12 and left < end and start < left + width for start, end, other in taken):
            continue
        taken.append((left, left + width, y))
        marks.append({"name": name, "x": x + (8 if right_of else -8), "y": y, "anchor": "start" if right_of else "end"})
    return marks


def density(frame: Frame, points: Sequence[Point]) -> list[Mark]:
    """How many points lie where, as a grid of cells: bounded, whatever the number of points."""
    edges = [np.linspace(low, 1, CELLS + 1) for low in (frame.x_low, frame.y_low)]
    across, up = zip(*points) if points else ((), ())
    counts = np.histogram2d(across, up, bins=edges)[0].astype(int)
    width, height, most = (RIGHT - LEFT) / CELLS, (BOTTOM - TOP) / CELLS, math.log1p(max(1, counts.max()))
    marks = []
    for column, row in zip(*np.nonzero(counts)):
        count = int(counts[column, row])
        mark = _rectangle(LEFT + column * width, BOTTOM - (row + 1) * height, width, height)
        marks.append(mark | {"count": count, "opacity": round(0.2 + 0.8 * math.log1p(count) / most, 2)})
    return marks


def histogram(shares: Sequence[float]) -> tuple[Frame, list[Mark], int]:
    """How many shares lie where, as bars: the axes, a mark a bar, and the count of the highest bar."""
    low = Frame.around([(share, 0.0) for share in shares]).x_low
    frame = Frame(low, 0.0, "kept pixels of an image, %", "images, % of the highest bar")
    counts, edges = np.histogram(shares, bins=BARS, range=(low, 1))
    most, width = max(1, int(counts.max())), (RIGHT - LEFT) / BARS
    marks = []
    for index, count in enumerate(counts.tolist()):
        top = frame.y(count / most)
        mark = _rectangle(LEFT + index * width + 1, top, width - 2, BOTTOM - top)
        marks.append(mark | {"count": count, "low": edges[index], "high": edges[index + 1]})
    return frame, marks, most


def _rectangle(x: float, y: float, width: float, height: float) -> Mark:
    return {"x": round(x, 2), "y": round(y, 2), "width": round(width, 2), "height": round(height, 2)}
