"""The loop of eval_cam.py: CAM files or masks against the ground truth, one pass."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import StopRun, UserError, in_short
from common.files import is_file
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import SameSettings, parse_record
from dataset.mask_png import mask_made_by, read_mask
from dataset.spec import IGNORE_INDEX
from pipeline.files.cam_file import StoredMaps, read_made_by, read_maps
from pipeline.steps.maps import strips
from pipeline.steps.masks import contest, labels_of
from pipeline.steps.scores import confusion_matrix, sweep_confusions

SCORED_AT_ONCE = 1 << 22  # pixels


@dataclass
class Totals:
    """Confusion matrices summed over the images; (S, C, C+1) for CAMs, (1, C, C+1) for masks."""

    confusions: np.ndarray
    images: int = 0

    def add(self, confusions: np.ndarray) -> None:
        self.confusions += confusions
        self.images += 1


@dataclass(frozen=True)
class EvalJob:
    """What is compared with what.

    cam_type     "attn_highres", "highres", or "png" for masks
    backgrounds  settings of the background score (scores.backgrounds_for); a single one, which is not used, for masks,
                 for maps that know their background's score, and where there is no background class
    precision    dtype in which the background score is computed

    With `has_background` label 0 is the background, else it is the first class.
    """

    folder: Path
    truth: Path
    cam_type: str
    num_labels: int
    backgrounds: tuple[float, ...] = (1.0,)
    precision: type = np.float32
    has_background: bool = True

    def empty_totals(self) -> Totals:
        return Totals(np.zeros((len(self.backgrounds), self.num_labels, self.num_labels + 1), np.int64))


def run(job: EvalJob, ids: Sequence[str], totals: Totals, threads: int) -> Iterator[Outcome]:
    """Add every image to the totals; one outcome an image.

    Raises UserError for files that were made in different ways: their sum would be the score of neither.
    """
    together = SameSettings()
    for scored in ordered_map(lambda image_id: _scored(job, image_id), ids, threads):
        if scored.confusions is not None:
            together.add(scored.path, scored.record)
            totals.add(scored.confusions)
        yield scored.outcome


@dataclass(frozen=True)
class Scored:
    """One image: its confusion matrices (S, C, C+1), where there are any, and the file that was scored."""

    outcome: Outcome
    confusions: np.ndarray | None = None
    path: Path = Path()
    record: Mapping[str, Any] = field(default_factory=dict)


def failure(image_id: str, error: Exception) -> Outcome:
    """What an exception costs: this one image, with a reason in one line. A StopRun is raised again."""
    if isinstance(error, StopRun):
        raise error
    return Outcome(
        image_id, "failed", str(error) if isinstance(error, UserError) else in_short(f"{type(error).__name__}: {error}")
    )


def _scored(job: EvalJob, image_id: str) -> Scored:
    try:
        return _score(job, image_id)
    except Exception as error:
        return Scored(failure(image_id, error))


def _score(job: EvalJob, image_id: str) -> Scored:
    """Count one image, strip by strip where it is large."""
    truth = read_truth(job.truth, image_id, job.num_labels)
    made = Outcome(image_id, "made")
    if job.cam_type == "png":
        path = job.folder / f"{image_id}.png"
        return Scored(made, _score_mask(job, path, truth), path, mask_record(path))
    path = job.folder / f"{image_id}.npz"
    stored = read_maps(path, job.cam_type, job.num_labels - int(job.has_background))
    check_shape(path, stored.size, truth)
    confusions = job.empty_totals().confusions
    for rows in strips(stored.size, len(stored.keys) + 1):
        confusions += _confusions(job, truth[rows], stored, stored.rows(rows))
    return Scored(made, confusions, path, stored.made_by)


def _confusions(job: EvalJob, truth: np.ndarray, stored: StoredMaps, maps: np.ndarray) -> np.ndarray:
    """Of some rows: (S, C, C+1) for CAMs, (1, C, C+1) where there is no background score to be set."""
    if stored.kind == "cam" and job.has_background:
        return sweep_confusions(truth, stored.keys, maps, job.backgrounds, job.num_labels, job.precision)
    labels = labels_of(contest(maps, stored.kind, job.has_background), stored.keys, job.has_background)
    return confusion_matrix(truth, labels, job.num_labels)[None]


def mask_record(path: Path) -> dict[str, Any]:
    """The record of a mask; empty when it does not say how it was made, as other programs' masks."""
    try:
        return parse_record(mask_made_by(path))
    except ValueError:
        return {}


def _score_mask(job: EvalJob, path: Path, truth: np.ndarray) -> np.ndarray:
    mask = read_mask(path)
    check_shape(path, mask.shape, truth)
    try:
        return confusion_of(truth, mask, job.num_labels)
    except ValueError as error:
        raise UserError(f"{path}: {error}; wrong --dataset?") from error


def confusion_of(truth: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(1, C, C+1): the confusion matrix of an image of any size, counted in strips, which take less memory."""
    confusion = np.zeros((1, num_labels, num_labels + 1), np.int64)
    for rows in strips(truth.shape, 1, SCORED_AT_ONCE):
        confusion += confusion_matrix(truth[rows], labels[rows], num_labels)
    return confusion


def cam_record(folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    """What made the CAM files of a run, as the first readable one says; empty when none does."""
    for image_id in ids:
        with suppress(UserError):
            return read_made_by(folder / f"{image_id}.npz")
    return {}


def read_truth(folder: Path, image_id: str, num_labels: int) -> np.ndarray:
    """The ground-truth mask of an id, (H, W) uint8: labels below `num_labels`, or 255.

    Any other value is refused: it would be left out like 255, and what is left would look splendid.
    """
    path = folder / f"{image_id}.png"
    if not is_file(path):
        raise UserError(f"{path}: no ground truth for this image; expected a mask PNG")
    truth = read_mask(path)
    for rows in strips(truth.shape, 1, SCORED_AT_ONCE):
        strange = truth[rows][(truth[rows] >= num_labels) & (truth[rows] != IGNORE_INDEX)]
        if strange.size:
            expected = f"labels 0 to {num_labels - 1}, and 255 for pixels to ignore"
            raise UserError(f"{path}: holds label {strange[0]}; expected {expected}; ground truth of another data set?")
    return truth


def check_shape(path: Path, shape: tuple[int, ...], truth: np.ndarray) -> None:
    """Raise UserError when a map or mask has another size than its ground truth."""
    if tuple(shape) != truth.shape:
        raise UserError(
            f"{path}: size {tuple(shape)} where the ground truth has {truth.shape}; made from other images?"
        )
