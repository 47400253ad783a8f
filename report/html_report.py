"""The report as one HTML page that opens from disk and fetches nothing.

Ten thousand images stay bearable because everything heavy is text that the browser does not touch: one
`<script type="text/plain">` an image with its tiles in base64. assets/page.js puts one page of
images into the document and fills in a picture when it comes near the window.
"""

import base64
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import atomic_write
from dataset.spec import IGNORE_INDEX, DatasetSpec
from pipeline.steps.scores import Scores, scores_of
from report import html_charts, html_tables
from report.confidence_curve import Curve
from report.markup import Html, colour, element, joined, json_block, percent
from report.pictures import label_colours
from report.stage_gallery import Spool
from report.stage_report import Findings

ASSETS = Path(__file__).with_name("assets")
LISTED_PROBLEMS = 1_000
_PLACE = re.compile(r"<!--(\w+)-->")


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    made_from  lines that say which files it was made from and how
    failures   (id, reason) of missing and damaged files
    curve      precision over confidence thresholds, where it was asked for
    """

    spec: DatasetSpec
    made_from: Sequence[str]
    findings: Findings
    spool: Spool
    failures: Sequence[tuple[str, str]]
    curve: Curve | None = None


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all."""
    parts = _parts(report)
    with atomic_write(path) as stream:
        # The template cut at its places: text, name, text, name, ..., text.
        for index, piece in enumerate(_PLACE.split(_asset("page.html"))):
            if index % 2 and piece == "tiles":
                report.spool.stream.seek(0)
                shutil.copyfileobj(report.spool.stream, stream)
            else:
                stream.write((parts[piece] if index % 2 else piece).encode("utf-8", "backslashreplace"))


def _parts(report: Report) -> Mapping[str, str]:
    style, script = _asset("page.css"), _asset("page.js")
    findings, spec = report.findings, report.spec
    scores = scores_of(findings.confusion) if findings.confusion.any() else None
    used = (findings.pixels[: spec.num_labels] + findings.confusion.sum(axis=1)) > 0
    return {
        "policy": f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'",
        "title": joined(f"Pseudo masks of {spec.name}: {len(findings.entries):,} images"),
        "style": style,
        "script": script,
        "from": joined([joined(line, Html("<br>")) for line in report.made_from]),
        "facts": _facts(findings, scores),
        "problem_note": _problem_note(report.failures),
        "ways": joined([joined(element("a", title, href=f"#{place}"), " ") for place, title in _ways(report, scores)]),
        "scores": _scores(report, scores) if scores else _without_truth(report),
        "gallery_note": joined(_gallery_note(report)),
        "legend": html_tables.legend(spec, used, scores is not None),
        "problems": _problems(report.failures),
        "data": json_block(_data(report, scores is not None), "data"),
    }


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A source for the content security policy: this very text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _facts(findings: Findings, scores: Scores | None) -> Html:
    facts = {"images": f"{len(findings.entries):,}"}
    if scores:
        facts |= {
            "mean IoU": f"{percent(scores.miou)} %",
            "pixel accuracy": f"{percent(scores.pixel_accuracy)} %",
            "coverage": f"{percent(scores.coverage)} %",
            "precision of what is kept": f"{percent(scores.precision)} %",
        }
    facts["pixels set to 255"] = f"{percent(findings.pixels[IGNORE_INDEX] / max(1, findings.pixels.sum()))} %"
    return element(
        "dl",
        [element("div", element("dt", name), element("dd", value)) for name, value in facts.items()],
        class_="facts",
    )


def _scores(report: Report, scores: Scores) -> Html:
    spec, confusion = report.spec, report.findings.confusion
    overall = scores.coverage, scores.precision
    points = [
        (entry.coverage, entry.precision)
        for entry in report.findings.entries
        if entry.coverage and entry.precision is not None
    ]
    charts = [html_charts.class_chart(spec, confusion, overall), html_charts.image_chart(points, overall)]
    table = html_tables.score_table(spec, confusion, report.findings.images, scores)
    worst = joined(element("h3", "Largest confusions"), html_tables.worst_confusions(spec, confusion))
    left = element(
        "div", _section("scores", "Scores", _scored_note(report, scores), table, worst), _curve(report.curve)
    )
    right = _section("coverage", "Coverage and precision", COVERAGE_NOTE, element("div", charts, class_="charts"))
    matrix = html_tables.confusion_table(spec, confusion)
    return joined(
        element("div", left, right, class_="halves"),
        _section("confusion", "Confusion", None, html_tables.wide(matrix, "Confusion matrix")),
    )


COVERAGE_NOTE = (
    "The 255 rule gives up the pixels that the CRF is not sure of. What it keeps should be right: points belong at the "
    "top, and the further to the right, the less was given up for it. Axes begin where the data does."
)


def _scored_note(report: Report, scores: Scores) -> str:
    absent = [name for name, iou in zip(report.spec.label_names, scores.iou) if iou is None]
    left_out = f" Not in the ground truth, left out of the means: {', '.join(absent)}." if absent else ""
    unscored = len(report.findings.entries) - report.findings.scored
    without = f" {unscored:,} images have no ground truth and are not scored." if unscored else ""
    return (
        f"{report.findings.scored:,} images against their ground truth; 255 counts as not predicted.{left_out}{without}"
    )


def _curve(curve: Curve | None) -> Html | None:
    if curve is None or not curve.images:
        return None
    note = (
        f"The CRF was run again on {curve.images:,} images spread over the split; the large point is the threshold of "
        f"the masks, {curve.written:g}."
    )
    chart = html_charts.curve_chart(curve.points(), curve.written, note)
    return _section("thresholds", "Confidence thresholds", None, chart)


def _without_truth(report: Report) -> Html:
    kept = [entry.kept for entry in report.findings.entries]
    table = html_tables.mask_table(report.spec, report.findings.pixels, report.findings.images)
    chart = element("div", html_charts.confidence_chart(kept), class_="charts")
    note = "There is no ground truth, so there are no scores."
    halves = _section("scores", "Masks", note, table), _section("coverage", "Confidence", None, chart)
    return element("div", halves, class_="halves")


def _section(place: str, title: str, note: str | None, *content: Html) -> Html:
    """A part of the page that links can lead to."""
    return element("section", element("h2", title), element("p", note) if note else None, content, id=place)


def _ways(report: Report, scores: Scores | None) -> list[tuple[str, str]]:
    """Where the links at the top lead: (id, title)."""
    ways = [("scores", "Scores"), ("coverage", "Coverage and precision"), ("confusion", "Confusion")]
    if scores is None:
        ways = [("scores", "Masks"), ("coverage", "Confidence")]
    problems = [("problems", "Missing and damaged files")] if report.failures else []
    return [*ways, ("gallery", "Gallery"), *problems]


def _gallery_note(report: Report) -> str:
    drawn, measured = len(report.spool.records), len(report.findings.entries)
    bound = f" Of {measured:,} images the {drawn:,} least certain ones are shown." if drawn < measured else ""
    return f"Confidence is the share of an image's pixels that are kept, that is, not 255.{bound}"


def _problem_note(failures: Sequence[tuple[str, str]]) -> Html:
    if not failures:
        return Html("")
    images = f"{len(failures):,} image{'s' if len(failures) > 1 else ''}"
    link = element("a", "listed below", href="#problems")
    return element("p", f"Files of {images} are missing or damaged; they are ", link, ".", class_="warning")


def _problems(failures: Sequence[tuple[str, str]]) -> Html:
    if not failures:
        return Html("")
    rows = [
        element("tr", element("th", image_id, scope="row"), element("td", reason))
        for image_id, reason in failures[:LISTED_PROBLEMS]
    ]
    more = len(failures) - LISTED_PROBLEMS
    head = element("thead", element("tr", element("th", "image", scope="col"), element("th", "problem", scope="col")))
    table = element("table", head, element("tbody", rows), class_="problems")
    return element(
        "section",
        element("h2", "Missing and damaged files"),
        html_tables.wide(table, "Missing and damaged files"),
        element("p", f"... and {more:,} more") if more > 0 else None,
        id="problems",
    )


def _data(report: Report, scored: bool) -> dict[str, Any]:
    """What page.js works on."""
    spec, colours = report.spec, label_colours()
    return {
        "labels": [{"name": name, "colour": colour(colours[label])} for label, name in enumerate(spec.label_names)],
        "background": 0 if spec.has_background else None,
        "scored": scored,
        "images": report.spool.records,
    }
