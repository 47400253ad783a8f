"""The tables of the report page."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from dataset.spec import IGNORE_INDEX, DatasetSpec
from pipeline.steps.scores import Scores
from report.markup import Html, element, joined, percent, swatch
from report.pictures import DIFFERENCES, heat_colours, label_colours

LISTED_CONFUSIONS = 8
FEW_LABELS = 12  # more do not fit beside something else


def class_link(spec: DatasetSpec, label: int) -> Html:
    """Colour and name of a label; the name of a class leads to its images in the gallery."""
    name = spec.label_names[label]
    background = spec.has_background and label == 0
    shown = element("span", name) if background else element("a", name, href=f"#class={label}")
    return joined(swatch(label_colours()[label]), " ", shown)


def score_table(spec: DatasetSpec, confusion: np.ndarray, images: np.ndarray, scores: Scores) -> Html:
    """IoU, precision, recall and coverage by class, in percent, from a (C, C+1) confusion matrix."""
    titles = (
        ("class", "its colour in the masks"),
        ("IoU", "intersection over union; pixels set to 255 count as missed"),
        ("precision", "share of the pixels given this class that are right"),
        ("recall", "share of the class's pixels that are found"),
        ("coverage", "share of the class's pixels that are kept, not 255"),
        ("images", "images whose ground truth shows the class"),
        ("pixels", "share of the scored pixels"),
    )
    true, kept = confusion.sum(axis=1), confusion[:, :-1].sum(axis=1)
    right, predicted = np.diag(confusion), confusion[:, :-1].sum(axis=0)
    rows = []
    for label, iou in enumerate(scores.iou):
        shares = (
            iou,
            _share(right[label], predicted[label]),
            _share(right[label], true[label]),
            _share(kept[label], true[label]),
        )
        cells = [*map(_cell, shares), _count(images[label]), _cell(_share(true[label], true.sum()))]
        rows.append(element("tr", element("th", class_link(spec, label), scope="row"), cells))
    mean = (scores.miou, scores.precision, scores.mean_accuracy, scores.coverage)
    foot = element(
        "tr",
        element("th", "mean IoU and recall; all pixels", scope="row"),
        [*map(_cell, mean), element("td"), element("td")],
    )
    return _table(titles, rows, foot, "Scores of the written masks by class, in percent")


def mask_table(spec: DatasetSpec, pixels: np.ndarray, images: np.ndarray) -> Html:
    """Without ground truth: what the masks hold. pixels (256,), images (C,)."""
    titles = (
        ("class", "its colour in the masks"),
        ("images", "images whose mask shows the class"),
        ("pixels", "share of all pixels"),
    )
    rows = [
        element("tr", element("th", class_link(spec, label), scope="row"), _count(images[label]), _cell(share))
        for label, share in enumerate(pixels[: spec.num_labels] / max(1, pixels.sum()))
    ]
    return _table(titles, rows, None, "What the written masks hold, pixels in percent")


def confusion_table(spec: DatasetSpec, confusion: np.ndarray) -> Html:
    """Rows true labels, columns predicted ones, in percent of the row."""
    names = [*spec.label_names, "255"]
    head = [element("th", element("span", name), scope="col", class_="turned") for name in names]
    rows = []
    for label, counts in enumerate(confusion):
        total = counts.sum()
        cells = [_heat_cell(count / total if total else 0.0, column == label) for column, count in enumerate(counts)]
        rows.append(element("tr", element("th", spec.label_names[label], scope="row"), cells))
    corner = element("td", "truth ↓ mask →")
    return element(
        "table",
        element("caption", "Where the pixels of each true class went, in percent of the class; 255 is not kept"),
        element("thead", element("tr", corner, head)),
        element("tbody", rows),
        class_="confusion",
    )


def _heat_cell(share: float, right: bool) -> Html:
    level = round(10 * share**0.5) if share else 0  # the root lets small confusions be seen
    text = f"{100 * share:.0f}" if share >= 0.005 else "" if share == 0 else "·"
    return element("td", text, class_=f"{'r' if right else 'w'}{level}" if level else None)


def worst_confusions(spec: DatasetSpec, confusion: np.ndarray) -> Html:
    """The largest mistakes in words, by pixels."""
    wrong = confusion[:, :-1].copy()
    np.fill_diagonal(wrong, 0)
    names, true = spec.label_names, confusion.sum(axis=1)
    items = []
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]:
        row, column = divmod(int(flat), wrong.shape[1])
        if wrong[row, column]:
            share = f": {percent(wrong[row, column] / true[row])} % of {names[row]}"
            items.append(element("li", element("b", names[row]), " taken for ", element("b", names[column]), share))
    return element("ol", items) if items else element("p", "No kept pixel is wrong.")


def legend(spec: DatasetSpec, used: np.ndarray, truth: bool) -> Html:
    """The colours of masks (labels with used[label]), of the difference picture and of the CAMs.

    Many classes are folded up: each image names the colours of its own.
    """
    colours = label_colours()
    labels = [(name, colours[label]) for label, name in enumerate(spec.label_names) if used[label]]
    masks = _legend_line("masks", [*labels, ("ignored (255)", colours[IGNORE_INDEX])])
    folded = element("details", element("summary", f"Colours of {len(labels)} classes"), masks, class_="legends")
    return joined(
        masks if len(labels) <= FEW_LABELS else folded,
        _legend_line("difference", DIFFERENCES) if truth else None,
        _legend_line("CAMs", zip(("0", "0.5", "1"), heat_colours(np.array([[0, 0.5, 1]]))[0])),
    )


def _legend_line(title: str, entries: Iterable[tuple[str, Any]]) -> Html:
    items = [element("li", swatch(rgb), " ", name) for name, rgb in entries]
    return element("div", element("h3", title), element("ul", items), class_="legend")


def _table(titles: tuple[tuple[str, str], ...], rows: list[Html], foot: Html | None, caption: str) -> Html:
    """A table whose column heads are buttons that sort it, with the meaning of its columns below."""
    head = [
        element("th", element("button", name, type="button", title=f"{meaning}; press to sort"), scope="col")
        for name, meaning in titles
    ]
    meanings = [joined(element("dt", name), element("dd", meaning)) for name, meaning in titles[1:]]
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", head)),
        element("tbody", rows),
        element("tfoot", foot) if foot else None,
        class_="sortable",
    )
    return joined(
        wide(table, caption),
        element("details", element("summary", "What the columns mean"), element("dl", meanings)),
    )


def wide(table: Html, title: str = "Table") -> Html:
    """A table in a box of its own that scrolls sideways, by keyboard too."""
    return element("div", table, class_="wide", tabindex=0, role="region", aria_label=title)


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _cell(value: float | None) -> Html:
    """A share as percent; sorts by its exact value."""
    return element("td", percent(value), data_value=-1 if value is None else f"{value:.6f}")


def _count(value: int) -> Html:
    return element("td", f"{int(value):,}", data_value=int(value))
