"""The loop of eval_cam.py: CAM files or masks against the ground truth, one pass."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import is_file
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import SameSettings, parse_record
from dataset.mask_folder import Masks, mask_folder
from dataset.mask_png import is_made_here, mask_made_by, read_mask
from dataset.spec import IGNORE_INDEX
from pipeline.files.cam_file import StoredMaps, read_made_by, read_maps
from pipeline.stages.failure import failure
from pipeline.steps.maps import strips
from pipeline.steps.masks import contest, labels_of
from pipeline.steps.scores import confusion_matrix, sweep_confusions

SCORED_AT_ONCE = 1 << 22  # pixels


CHECKING = 8  # files that are looked at side by side before the work


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
    truth: Masks
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
    yield from add_up(ordered_map(partial(_scored, job), ids, threads), totals)


@dataclass(frozen=True)
class Scored:
    """One image.

    confusions  its confusion matrices (S, C, C+1), where it was scored
    path        the file with its mask or maps
    record      how that was made, empty where it does not say; None where it is not compared with others
    """

    outcome: Outcome
    confusions: np.ndarray | None = None
    path: Path = Path()
    record: Mapping[str, Any] | None = None


def add_up(images: Iterable[Scored], totals: Totals) -> Iterator[Outcome]:
    """Add the scores of every image to the totals. Raises UserError for files that were made in different ways."""
    together = SameSettings()
    for image in images:
        if image.record is not None:
            together.add(image.path, image.record)
        if image.confusions is not None:
            totals.add(image.confusions)
        yield image.outcome


def check_predicted(job: EvalJob, ids: Iterable[str]) -> None:
    """Raise UserError for masks of another program that hold 0 and 255 alone: 255 counts as not predicted."""
    values: set[int] = set()
    for path in (job.folder / f"{image_id}.png" for image_id in ids):
        if is_made_here(path):
            return
        with suppress(UserError):  # reported when its turn comes
            values |= set(np.unique(read_mask(path)).tolist())
        if not values <= {0, IGNORE_INDEX}:
            return
    if IGNORE_INDEX in values and job.has_background:
        told = "the masks hold 0 and 255 only, and 255 counts as not predicted"
        raise UserError(f"--cam_out_dir {job.folder}: {told}; write the class's mask value in its place")


def check_one_way(folder: Path, ids: Sequence[str]) -> None:
    """Raise UserError when the CAM files of a folder were made in different ways; unreadable ones do not count."""

    def record(image_id: str) -> tuple[Path, dict[str, Any] | None]:
        path = folder / f"{image_id}.npz"
        try:
            return path, read_made_by(path)
        except UserError:
            return path, None

    together = SameSettings()
    for path, made_by in ordered_map(record, ids, CHECKING, ahead=16):
        if made_by is not None:
            together.add(path, made_by)


def _scored(job: EvalJob, image_id: str) -> Scored:
    """One image, counted in strips of rows where it is large."""
    try:
        truth = read_truth(job.truth, image_id, job.num_labels)
        if job.cam_type == "png":
            path = job.folder / f"{image_id}.png"
            mask, record = read_mask(path), mask_record(path)
            check_shape(path, mask.shape, truth)
            try:
                confusions = confusion_of(truth, mask, job.num_labels)
            except ValueError as error:
                raise UserError(f"{path}: {error}; wrong --dataset?") from error
        else:
            path = job.folder / f"{image_id}.npz"
            stored = read_maps(path, job.cam_type, job.num_labels - int(job.has_background))
            check_shape(path, stored.size, truth)
            confusions, record = job.empty_totals().confusions, dict(stored.made_by)
            for rows in strips(stored.size, len(stored.keys) + 1):
                confusions += _confusions(job, truth[rows], stored, stored.rows(rows))
        return Scored(Outcome(image_id, "made"), confusions, path, record)
    except Exception as error:
        return Scored(failure(image_id, error))


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


TRUTH = "ground truth"


def read_truth(masks: Masks, image_id: str, num_labels: int, what: str = TRUTH) -> np.ndarray:
    """The ground-truth mask of an id, (H, W) uint8: labels below `num_labels`, or 255.

    what  what people call it
    Raises UserError for any other value: left out like 255, it would make the scores too high.
    """
    folder = mask_folder(masks)
    path = folder.path(image_id)
    if not is_file(path):
        told = f"no {what} for this image; expected a mask PNG"
        raise UserError(f"{path}: {told}{folder.suggestion(image_id)}")
    truth = read_mask(path, folder.values)
    for rows in strips(truth.shape, 1, SCORED_AT_ONCE):
        unknown = truth[rows][(truth[rows] >= num_labels) & (truth[rows] != IGNORE_INDEX)]
        if unknown.size:
            expected = f"labels 0 to {num_labels - 1}, and 255 for pixels to ignore"
            told = f"{path}: holds label {unknown[0]}; expected {expected}; {what} of another data set?"
            raise UserError(told + (" --mask_values maps other values" if what == TRUTH else ""))
    return truth


def check_shape(path: Path, shape: tuple[int, ...], truth: np.ndarray) -> None:
    """Raise UserError when a map or mask has another size than its ground truth."""
    if tuple(shape) != truth.shape:
        raise UserError(
            f"{path}: size {tuple(shape)} where the ground truth has {truth.shape}; made from other images?"
        )
