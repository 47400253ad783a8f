"""The charts of the report page, as SVG in the page's own colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.spec import DatasetSpec
from report.confidence_curve import CurvePoint
from report.markup import Html, colour, element, joined, percent
from report.pictures import label_colours

WIDTH, HEIGHT = 460, 320
LEFT, TOP, RIGHT, BOTTOM = 50, 14, 446, 272  # edges of the plotting area
CELLS = 22  # of the density picture, along each axis
Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """Shares from `low` to 1 on both axes, coverage to the right and precision upwards."""

    x_low: float
    y_low: float
    x_title: str = "coverage: share of the pixels that are kept, %"
    y_title: str = "precision of what is kept, %"

    @classmethod
    def around(cls, points: Sequence[Point]) -> "Frame":
        """From a round number below the lowest values."""
        x_low, y_low = (min((point[axis] for point in points), default=0.0) for axis in (0, 1))
        return cls(_round_below(x_low), _round_below(y_low))

    def x(self, share: float) -> float:
        return LEFT + (RIGHT - LEFT) * (share - self.x_low) / (1 - self.x_low)

    def y(self, share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (share - self.y_low) / (1 - self.y_low)

    def axes(self) -> Html:
        parts = []
        for share in _ticks(self.x_low):
            x = self.x(share)
            parts.append(element("line", x1=x, x2=x, y1=TOP, y2=BOTTOM, class_="grid"))
            parts.append(element("text", _tick(share), x=x, y=BOTTOM + 18, text_anchor="middle"))
        for share in _ticks(self.y_low):
            y = self.y(share)
            parts.append(element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"))
            parts.append(element("text", _tick(share), x=LEFT - 6, y=y + 4, text_anchor="end"))
        middle = (TOP + BOTTOM) / 2
        parts.append(element("text", self.x_title, x=(LEFT + RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle"))
        turned = f"rotate(-90 12 {middle})"
        parts.append(element("text", self.y_title, x=12, y=middle, text_anchor="middle", transform=turned))
        return joined(parts)


def _round_below(share: float) -> float:
    """A multiple of 5 % below the share, 95 % at most."""
    return math.floor(20 * min(share, 0.95)) / 20


def _ticks(low: float) -> list[float]:
    span = 1 - low
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if span / step <= 6)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, round(1 / step) + 1)]


def _tick(share: float) -> str:
    return f"{100 * share:.0f}"


def class_chart(spec: DatasetSpec, confusion: np.ndarray, overall: Point) -> Html:
    """A point a class: coverage of its true pixels, precision of the pixels that were given it."""
    points = {}
    for label, counts in enumerate(confusion):
        kept, predicted = counts[:-1].sum(), confusion[:, label].sum()
        if counts.sum() and predicted:
            points[label] = float(kept / counts.sum()), float(counts[label] / predicted)
    frame = Frame.around([*points.values(), overall])
    drawn = [_dot(frame, spec.label_names[label], label_colours()[label], at) for label, at in points.items()]
    names = [(spec.label_names[label], at) for label, at in points.items()]
    parts = [drawn, _labels(frame, names, overall), _overall(frame, overall)]
    return _figure("By class", "A point a class. The cross is all pixels together.", frame.axes(), parts)


def _dot(frame: Frame, name: str, rgb: np.ndarray, at: Point) -> Html:
    title = element("title", f"{name}: coverage {percent(at[0])} %, precision {percent(at[1])} %")
    return element("circle", title, cx=frame.x(at[0]), cy=frame.y(at[1]), r=5, fill=colour(rgb), class_="dot")


def _labels(frame: Frame, names: Sequence[tuple[str, Point]], overall: Point) -> list[Html]:
    """Names beside their points, as many as fit without covering points or each other; the rest shows on hovering."""
    drawn: list[Html] = []
    taken = [(frame.x(x) - 6, frame.x(x) + 6, frame.y(y) + 4) for x, y in (overall, *(at for _name, at in names))]
    for name, at in sorted(names, key=lambda item: item[1][1]):
        width, y = 6.4 * len(name), frame.y(at[1]) + 4
        right_of = frame.x(at[0]) + 8 + width < RIGHT
        left = frame.x(at[0]) + 8 if right_of else frame.x(at[0]) - 8 - width
        if any(abs(y - other) < 12 and left < end and start < left + width for start, end, other in taken):
            continue
        taken.append((left, left + width, y))
        at_point = {"x": left} if right_of else {"x": left + width, "text_anchor": "end"}
        drawn.append(element("text", name, **at_point, y=y))
    return drawn


def _overall(frame: Frame, at: Point) -> Html:
    x, y = frame.x(at[0]), frame.y(at[1])
    title = element("title", f"all pixels: coverage {percent(at[0])} %, precision {percent(at[1])} %")
    path = f"M{x - 7:.1f} {y:.1f}h14M{x:.1f} {y - 7:.1f}v14"
    return element("g", title, element("path", d=path), class_="overall")


def image_chart(points: Sequence[Point], overall: Point) -> Html:
    """How many images lie where, as a grid of cells: bounded, whatever the number of images."""
    frame = Frame.around([*points, overall])
    edges = [np.linspace(low, 1, CELLS + 1) for low in (frame.x_low, frame.y_low)]
    across, up = zip(*points) if points else ((), ())
    counts = np.histogram2d(across, up, bins=edges)[0]
    most = max(1.0, counts.max())
    width, height = (RIGHT - LEFT) / CELLS, (BOTTOM - TOP) / CELLS
    cells = []
    for column, row in zip(*np.nonzero(counts)):
        count = int(counts[column, row])
        title = element("title", f"{count} image{'s' if count > 1 else ''}")
        at = {"x": LEFT + column * width, "y": BOTTOM - (row + 1) * height, "width": width, "height": height}
        opacity = 0.2 + 0.8 * math.log1p(count) / math.log1p(most)
        cells.append(element("rect", title, **at, fill_opacity=opacity, class_="cell"))
    note = "The stronger the colour, the more images. The cross is all pixels together."
    return _figure("By image", note, frame.axes(), [cells, _overall(frame, overall)])


def curve_chart(points: Sequence[CurvePoint], written: float, note: str) -> Html:
    """Precision against coverage for every confidence threshold, the one of the masks marked."""
    frame = Frame.around([(point.coverage, point.precision) for point in points])
    line = " ".join(f"{frame.x(point.coverage):.1f},{frame.y(point.precision):.1f}" for point in points)
    dots = []
    for point in points:
        mine = point.threshold == written
        text = f"from {point.threshold:g}: coverage {percent(point.coverage)} %, precision {percent(point.precision)} %"
        at = {"cx": frame.x(point.coverage), "cy": frame.y(point.precision), "r": 6 if mine else 3.5}
        dots.append(element("circle", element("title", text), **at, class_="mark" if mine else "step"))
    rows = [
        element("tr", element("th", f"{p.threshold:g}", scope="row"), _cells(p.coverage, p.precision)) for p in points
    ]
    head = element("tr", [element("th", name, scope="col") for name in ("threshold", "coverage", "precision")])
    table = element(
        "details", element("summary", "As a table"), element("table", element("thead", head), element("tbody", rows))
    )
    figure = _figure("By threshold", note, frame.axes(), [element("polyline", points=line, class_="line"), dots])
    return joined(figure, table)


def _cells(*shares: float) -> list[Html]:
    return [element("td", percent(share)) for share in shares]


def confidence_chart(kept: Sequence[float]) -> Html:
    """How many images keep which share of their pixels, as bars; needs no ground truth."""
    low = Frame.around([(share, 0.0) for share in kept]).x_low
    counts, edges = np.histogram(kept, bins=20, range=(low, 1))
    most = max(1, int(counts.max()))
    frame = Frame(low, 0.0, "kept pixels of an image, %", "images, % of the highest bar")
    width = (RIGHT - LEFT) / len(counts)
    bars = []
    for index, count in enumerate(counts.tolist()):
        top = frame.y(count / most)
        title = element("title", f"{percent(edges[index])} to {percent(edges[index + 1])} %: {count} images")
        at = {"x": LEFT + index * width + 1, "y": top, "width": width - 2, "height": BOTTOM - top}
        bars.append(element("rect", title, **at, class_="cell"))
    return _figure("Confidence", f"The highest bar holds {most} images.", frame.axes(), bars)


def _figure(title: str, note: str, *parts: object) -> Html:
    drawing = element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {note}")
    return element("figure", drawing, element("figcaption", element("b", title), ". ", note), class_="chart")
