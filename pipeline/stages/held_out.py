"""A network in training, or after it, scored on images that it does not learn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.images import read_image
from common.parallel import ordered_map
from dataset.mask_folder import Masks
from dataset.voc_layout import find_image
from pipeline.stages.evaluate import check_shape, read_truth
from pipeline.steps.scores import confusion_matrix


@dataclass(frozen=True)
class HeldOut:
    """The images to validate on and the folder of their ground-truth masks."""

    ids: Sequence[str]
    images: Path
    truth: Masks


def score(
    ids: Sequence[str], images: Path, truth: Masks, num_labels: int, predict: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The (C, C+1) confusion matrix of all images, and (id, reason) of those that could not be scored.

    predict  (H, W, 3) uint8 RGB to (H, W) uint8 labels
    """
    confusion, failures = np.zeros((num_labels, num_labels + 1), np.int64), []

    def read(image_id: str) -> tuple[np.ndarray, np.ndarray] | str:
        """Image and ground truth, or why they cannot be used."""
        try:
            path = find_image(images, image_id)
            labels = read_truth(truth, image_id, num_labels)
            image = np.asarray(read_image(path))
            check_shape(path, image.shape[:2], labels)
            return image, labels
        except UserError as error:
            return str(error)

    for image_id, result in zip(ids, ordered_map(read, ids, 2)):
        if isinstance(result, str):
            failures.append((image_id, result))
            continue
        image, labels = result
        confusion += confusion_matrix(labels, predict(image), num_labels)
    return confusion, failures
