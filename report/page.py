"""The report as one HTML page that opens from disk and fetches nothing; report/assets holds its templates.

Ten thousand images stay bearable because everything heavy is text that the browser does not touch: one
`<script type="text/plain">` an image with its tiles in base64. assets/page.js puts one page of images into the document
and fills in a picture when it comes near the window.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.files import atomic_write
from dataset.spec import IGNORE_INDEX, DatasetSpec
from pipeline.steps.scores import Scores, scores_of
from report import charts
from report.curve import Curve
from report.gallery import Spool
from report.measure import Findings
from report.pictures import DIFFERENCES, heat_colours, label_colours

ASSETS = Path(__file__).with_name("assets")
LISTED_PROBLEMS = 1_000
LISTED_CONFUSIONS = 8
PIECE = 1 << 20  # bytes of tiles that are copied at once


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
    """Write the page, whole or not at all, piece by piece: memory does not grow with the tiles."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "colour": colour}
    environment.globals |= {"charts": charts, "label_colours": label_colours()}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    template = environment.get_template("page.html.j2")
    with atomic_write(path) as stream:
        template.stream(_content(report)).dump(stream, "utf-8", "backslashreplace")


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as percent; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def colour(rgb: Sequence[int] | np.ndarray) -> str:
    """Three numbers 0..255 as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*(int(part) for part in rgb))


def _content(report: Report) -> dict[str, Any]:
    """What the template names. Only this project's own files and tiles in base64 are Markup, which is not escaped."""
    spec, findings = report.spec, report.findings
    scores = scores_of(findings.confusion) if findings.confusion.any() else None
    style, script = (Markup((ASSETS / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    used = (findings.pixels[: spec.num_labels] + findings.confusion.sum(axis=1)) > 0
    content = {
        "spec": spec,
        "findings": findings,
        "made_from": report.made_from,
        "failures": report.failures,
        "listed_problems": LISTED_PROBLEMS,
        "curve": report.curve,
        "scores": scores,
        "ignored": findings.pixels[IGNORE_INDEX] / max(1, findings.pixels.sum()),
        "used_labels": np.flatnonzero(used).tolist(),
        "differences": DIFFERENCES,
        "heat": list(zip(("0", "0.5", "1"), heat_colours(np.array([[0, 0.5, 1]]))[0])),
        "data": {  # what page.js works on
            "labels": [{"name": name, "colour": colour(rgb)} for name, rgb in zip(spec.label_names, label_colours())],
            "background": 0 if spec.has_background else None,
            "scored": scores is not None,
            "images": report.spool.records,
            "ids": [entry.id for entry in findings.entries],  # of all images, also of those that are not shown
        },
        "policy": f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "tiles": _pieces(report.spool.stream),
    }
    if scores:
        return content | _scored(spec, findings, scores)
    shares = findings.pixels[: spec.num_labels] / max(1, findings.pixels.sum())
    return content | {"rows": list(zip(findings.images.tolist(), shares.tolist()))}


def _digest(text: str) -> str:
    """A source for the content security policy: this very text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _pieces(stream: IO[bytes]) -> Iterator[Markup]:
    stream.seek(0)
    while piece := stream.read(PIECE):
        yield Markup(piece.decode("ascii"))


def _scored(spec: DatasetSpec, findings: Findings, scores: Scores) -> dict[str, Any]:
    """What is shown where there is ground truth."""
    confusion, names = findings.confusion, spec.label_names
    true, kept = confusion.sum(axis=1), confusion[:, :-1].sum(axis=1)
    right, predicted = np.diag(confusion), confusion[:, :-1].sum(axis=0)
    wrong = confusion[:, :-1] - np.diag(right)
    largest = [divmod(int(flat), len(names)) for flat in np.argsort(-wrong, axis=None, kind="stable")]
    return {
        "rows": [
            (
                iou,
                _share(right[label], predicted[label]),
                _share(right[label], true[label]),
                _share(kept[label], true[label]),
                int(findings.images[label]),
                _share(true[label], true.sum()),
            )
            for label, iou in enumerate(scores.iou)
        ],
        "absent": [name for name, iou in zip(names, scores.iou) if iou is None],
        "points": [
            (entry.coverage, entry.precision)
            for entry in findings.entries
            if entry.coverage and entry.precision is not None
        ],
        "shares_of_truth": (confusion / np.maximum(true, 1)[:, None]).tolist(),
        "confusions": [
            (names[row], names[column], wrong[row, column] / true[row])
            for row, column in largest[:LISTED_CONFUSIONS]
            if wrong[row, column]
        ],
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
