"""The masks of a report in numbers: sums over all images, and one small entry for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import is_file
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import SameSettings, check_source
from dataset.mask_folder import Masks, mask_folder
from dataset.mask_png import read_mask
from dataset.spec import IGNORE_INDEX, DatasetSpec
from dataset.voc_layout import image_file
from pipeline.stages.evaluate import check_shape, mask_record, read_truth
from pipeline.steps.scores import confusion_matrix, scores_of


@dataclass(frozen=True)
class ReportJob:
    """Where things lie.

    truth         folder of ground-truth masks, or None: no scores
    truth_needed  an image without ground truth has failed, rather than going unscored
    cam_type      "attn_highres" or "highres"
    """

    masks: Path
    images: Path
    cams: Path
    truth: Masks | None
    truth_needed: bool
    spec: DatasetSpec
    cam_type: str = "attn_highres"


@dataclass(frozen=True)
class Entry:
    """One image in numbers; shares in [0, 1].

    kept       share of the mask's pixels that are not 255: the image's confidence
    iou        mean over the labels its truth shows; None without truth
    precision  share of the kept, scored pixels that are right; None without truth
    coverage   share of the scored pixels that were kept; None without truth
    labels     (label, IoU) of all labels in mask or truth; IoU None where the truth does not show it
    """

    id: str
    kept: float
    iou: float | None
    coverage: float | None
    precision: float | None
    labels: tuple[tuple[int, float | None], ...]


@dataclass
class Findings:
    """Sums over the images, and one small entry for each.

    confusion  (C, C+1) as in pipeline.steps.scores
    images     (C,) images whose truth (without truth: whose mask) shows the label
    pixels     (256,) mask values
    """

    confusion: np.ndarray
    images: np.ndarray
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    scored: int = 0
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def empty(cls, labels: int) -> "Findings":
        return cls(np.zeros((labels, labels + 1), np.int64), np.zeros(labels, np.int64))


def measure(job: ReportJob, ids: Sequence[str], findings: Findings, threads: int) -> Iterator[Outcome]:
    """Add every mask to the findings; yields one outcome an image.

    Raises UserError for masks that were made in different ways.
    """
    labels, same_settings = job.spec.num_labels, SameSettings()

    def counted(image_id: str) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]] | str:
        """The mask's counts of values (256,), confusion matrix (None without truth) and record; or what is wrong."""
        try:
            path = job.masks / f"{image_id}.png"
            mask, truth, record = read_mask(path), truth_of(job, image_id), mask_record(path)
            if photo := image_file(job.images, image_id):
                check_source(path, record, photo)
            pixels = np.bincount(mask.ravel(), minlength=256)
            unknown = np.flatnonzero(pixels[labels:IGNORE_INDEX]) + labels
            if unknown.size:
                known = f"{job.spec.name} has 0..{labels - 1}"
                raise UserError(f"{path}: label {unknown[0]} where {known}; wrong --dataset?")
            if truth is None:
                return pixels, None, record
            check_shape(path, mask.shape, truth)
            return pixels, confusion_matrix(truth, mask, labels), record
        except UserError as error:
            return str(error)

    for image_id, result in zip(ids, ordered_map(counted, ids, threads)):
        if isinstance(result, str):
            yield Outcome(image_id, "failed", result)
            continue
        pixels, confusion, record = result
        same_settings.add(job.masks / f"{image_id}.png", record)
        findings.pixels += pixels
        if confusion is None:
            findings.images += pixels[:labels] > 0
        else:
            findings.confusion += confusion
            findings.images += confusion.sum(axis=1) > 0
            findings.scored += 1
        findings.entries.append(_entry(image_id, pixels, confusion))
        yield Outcome(image_id, "made")


def truth_of(job: ReportJob, image_id: str) -> np.ndarray | None:
    """The ground truth of an id, None where it may go without; raises UserError where it may not."""
    if job.truth is None or not (job.truth_needed or is_file(mask_folder(job.truth).path(image_id))):
        return None
    return read_truth(job.truth, image_id, job.spec.num_labels)


def _entry(image_id: str, pixels: np.ndarray, confusion: np.ndarray | None) -> Entry:
    kept = 1 - float(pixels[IGNORE_INDEX] / pixels.sum())
    present = np.flatnonzero(pixels[:IGNORE_INDEX]).tolist()
    if confusion is None:
        return Entry(image_id, kept, None, None, None, tuple((label, None) for label in present))
    scores = scores_of(confusion)
    shown = [label for label, iou in enumerate(scores.iou) if iou is not None]
    labels = tuple((label, scores.iou[label]) for label in sorted({*present, *shown}))
    if not confusion.any():  # the truth is 255 all over
        return Entry(image_id, kept, None, None, None, labels)
    return Entry(image_id, kept, scores.miou, scores.coverage, scores.precision, labels)


def least_certain(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The `count` entries with the largest share of 255, those first; ties by id."""
    return sorted(entries, key=lambda entry: (entry.kept, entry.id))[:count]
