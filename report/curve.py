"""Precision of what is kept against how much is kept, for every confidence threshold (`scripts/report.py --curve`).

The CRF's probabilities are not stored, so they are computed again, for a sample of the images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.errors import UserError
from common.outcome import Outcome
from common.parallel import ordered_map
from pipeline.stages import evaluate
from pipeline.stages.evaluate import check_shape, read_truth
from report.measure import ReportJob

if TYPE_CHECKING:  # imported where it is called: reports are made without the CRF's libraries
    from pipeline.stages.crf import CrfJob

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


class CurvePoint(NamedTuple):
    """At a threshold: the share of the scored pixels that is kept, and the share of those that is right."""

    threshold: float
    coverage: float
    precision: float

    @property
    def shares(self) -> tuple[float, float]:
        return self.coverage, self.precision


@dataclass
class Curve:
    """Scored pixels counted by the highest threshold that their confidence reaches; exact, whatever their number.

    written  the threshold of the masks, which joins the list
    """

    written: float
    images: int = 0
    thresholds: tuple[float, ...] = ()
    counts: np.ndarray = field(init=False)  # (2, T): wrong and right pixels

    def __post_init__(self) -> None:
        self.thresholds = tuple(sorted({*THRESHOLDS, self.written}))
        self.counts = np.zeros((2, len(self.thresholds)), np.int64)

    def add(self, labels: np.ndarray, probabilities: np.ndarray, truth: np.ndarray, num_labels: int) -> None:
        """One image: (H, W) labels, (k+1, H, W) probabilities, (H, W) truth."""
        scored = truth < num_labels
        confidence = probabilities.max(axis=0)[scored]
        steps = np.array(self.thresholds, confidence.dtype)
        reached = np.searchsorted(steps, confidence, side="right") - 1
        right = (labels == truth)[scored].astype(np.int64)
        self.counts += np.bincount(right * len(steps) + reached, minlength=2 * len(steps)).reshape(2, -1)
        self.images += 1

    def points(self) -> list[CurvePoint]:
        """From the lowest threshold to the highest, without those that nothing reaches."""
        kept = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1]
        total = int(self.counts.sum())
        return [
            CurvePoint(threshold, float((wrong + right) / total), float(right / (wrong + right)))
            for threshold, wrong, right in zip(self.thresholds, *kept)
            if wrong + right
        ]


def mask_record(path: Path) -> dict[str, Any]:
    """The record that eval_cam_with_crf.py writes into a mask; empty for masks of another origin."""
    try:
        return evaluate.mask_record(path)
    except UserError:
        return {}


def crf_job(job: ReportJob, record: dict[str, Any], vote_dir: Path | None = None) -> "CrfJob":
    """The CRF with the settings in a mask's record; raises UserError without them, and without ground truth.

    vote_dir  the masks that voted, where the record says that some did
    """
    from pipeline.crf.settings import CrfSettings
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.refine import Votes

    if job.truth is None:
        raise UserError("--curve needs ground truth: give --gt_root")
    steps = tuple(step for step in str(record.get("refine", "crf")).split(",") if step != "none")
    votes = None
    if "votes" in record:
        if vote_dir is None:
            raise UserError(f"--curve: masks voted on those of {job.masks}; give their folder as --vote_dir")
        made_by = record["votes"] if isinstance(record["votes"], dict) else {}
        votes = Votes(vote_dir, str(record.get("vote_rule")), made_by)
    try:
        return CrfJob(
            job.cams,
            job.images,
            None,
            job.truth,
            len(job.spec.classes),
            cam_type=record["cam_type"],
            crf_image=record["crf_image"],
            confidence=record["confidence"],
            palette=record["palette"],
            max_pixels=record["max_pixels"],
            crf=CrfSettings(**{item.name: record[item.name] for item in fields(CrfSettings)}),
            has_background=job.spec.has_background,
            steps=steps,
            votes=votes,
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--curve needs masks of eval_cam_with_crf.py; {job.masks} does not say how it was made"
        ) from error


def sample(ids: Sequence[str], count: int) -> list[str]:
    """`count` ids, spread evenly over all of them."""
    count = min(count, len(ids))
    return [ids[index * len(ids) // count] for index in range(count)]


def run(job: ReportJob, crf: "CrfJob", ids: Sequence[str], curve: Curve, threads: int) -> Iterator[Outcome]:
    """Add images to the curve; yields one outcome an image.

    An image fails when its mask was not made from its CAM file with the settings of `crf`.
    """
    from pipeline.stages.crf import record_of, refine

    truths = job.truth
    assert truths is not None, "crf_job refuses a job without ground truth"

    def refined(image_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
        """Labels, probabilities and truth of one image, or why there are none."""
        try:
            cams, mask = job.cams / f"{image_id}.npz", job.masks / f"{image_id}.png"
            if mask_record(mask) != record_of(crf, image_id)[1]:
                raise UserError(f"{mask}: not made from {cams} with the settings of the other masks; not in the curve")
            truth = read_truth(truths, image_id, job.spec.num_labels)
            labels, probabilities = refine(crf, image_id)
            check_shape(cams, labels.shape, truth)
            return labels, probabilities, truth
        except UserError as error:
            return str(error)

    for image_id, result in zip(ids, ordered_map(refined, ids, threads)):
        if isinstance(result, str):
            yield Outcome(image_id, "failed", result)
        else:
            curve.add(*result, job.spec.num_labels)
            yield Outcome(image_id, "made")
