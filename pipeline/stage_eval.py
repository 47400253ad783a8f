"""The loop of eval_cam.py: CAM files or masks against the ground truth, one pass. May import the steps and common."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.console import Outcome
from common.errors import UserError
from common.parallel import ordered_map
from dataset.spec import IGNORE_INDEX
from dataset.voc_layout import is_file
from pipeline.masks import read_mask
from pipeline.scores import confusion_matrix, sweep_confusions
from pipeline.storage import load_cams, read_made_by


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
    backgrounds  settings of the background score (scores.backgrounds_for); unused for masks
    precision    dtype in which the background score is computed
    """

    folder: Path
    truth: Path
    cam_type: str
    num_labels: int
    backgrounds: tuple[float, ...] = (1.0,)
    precision: type = np.float32

    def empty_totals(self) -> Totals:
        return Totals(np.zeros((len(self.backgrounds), self.num_labels, self.num_labels + 1), np.int64))


def run(job: EvalJob, ids: Sequence[str], totals: Totals, threads: int) -> Iterator[Outcome]:
    """Add every image to the totals; one outcome an image."""
    for image_id, result in ordered_map(lambda image_id: _score(job, image_id), ids, threads):
        if isinstance(result, str):
            yield Outcome(image_id, "failed", result)
        else:
            totals.add(result)
            yield Outcome(image_id, "made")


def _score(job: EvalJob, image_id: str) -> tuple[str, np.ndarray | str]:
    try:
        truth = read_truth(job.truth, image_id, job.num_labels)
        if job.cam_type == "png":
            return image_id, _score_mask(job, image_id, truth)
        path = job.folder / f"{image_id}.npz"
        keys, maps = load_cams(path, job.cam_type, job.num_labels - 1)
        check_shape(path, maps.shape[1:], truth)
        return image_id, sweep_confusions(truth, keys, maps, job.backgrounds, job.num_labels, job.precision)
    except UserError as error:
        return image_id, str(error)


def _score_mask(job: EvalJob, image_id: str, truth: np.ndarray) -> np.ndarray:
    path = job.folder / f"{image_id}.png"
    mask = read_mask(path)
    check_shape(path, mask.shape, truth)
    try:
        return confusion_matrix(truth, mask, job.num_labels)[None]
    except ValueError as error:
        raise UserError(f"{path}: {error}; wrong --dataset?") from error


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
    strange = truth[(truth >= num_labels) & (truth != IGNORE_INDEX)]
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
