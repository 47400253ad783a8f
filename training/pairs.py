"""The images and masks that a network learns from: which can be used, and reading one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.images import image_size, read_image
from dataset.mask_folder import Masks, mask_folder
from dataset.mask_png import read_mask
from dataset.mask_values import MaskValues
from dataset.spec import IGNORE_INDEX
from dataset.voc_layout import find_image

CHECKED_MASKS = 16  # whose labels are checked before the run begins

Problem = tuple[str, str]  # the id of an image, and what is wrong with it


@dataclass(frozen=True)
class Pair:
    """A training image and its mask, if there is one, with what the mask's values stand for."""

    id: str
    image: Path
    mask: Path | None
    values: MaskValues | None = None


def read_pair(pair: Pair, num_labels: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3) uint8 RGB, and (H, W) uint8 labels where there is a mask.

    Raises UserError, naming the file, when they do not fit.
    """
    image = np.asarray(read_image(pair.image))
    if pair.mask is None:
        return image, None
    labels = read_mask(pair.mask, pair.values)
    _check_size(pair.mask, labels.shape, image.shape[:2])
    _check_labels(pair.mask, labels, num_labels)
    return image, labels


def training_pairs(
    ids: Sequence[str], images: Path, masks: Masks | None, num_labels: int
) -> tuple[list[Pair], list[Problem]]:
    """The pairs whose files exist and have one size, by their headers, and what is wrong with the others.

    Raises UserError when none is left, or when one of the first masks holds labels of other classes.
    """
    pairs, failures, folder = [], [], None if masks is None else mask_folder(masks)
    for image_id in ids:
        try:
            image = find_image(images, image_id)
            pair = (
                Pair(image_id, image, folder.path(image_id), folder.values) if folder else Pair(image_id, image, None)
            )
            size = image_size(pair.image)
            if pair.mask is not None:
                if not pair.mask.is_file():
                    suggestion = folder.suggestion(image_id) if folder else ""
                    raise UserError(f"{pair.mask}: no such mask{suggestion}")
                _check_size(pair.mask, image_size(pair.mask), size)
            pairs.append(pair)
        except UserError as error:
            failures.append((image_id, str(error)))
    if not pairs:
        raise UserError(f"nothing to train on: {failures[0][1] if failures else 'no image in the split'}")
    checked, unreadable = [pair for pair in pairs[:CHECKED_MASKS] if pair.mask], []
    for pair in checked:
        assert pair.mask is not None
        try:
            labels = read_mask(pair.mask, pair.values)
        except UserError as error:  # a single one is listed when its turn comes
            unreadable.append(error)
            continue
        _check_labels(pair.mask, labels, num_labels)
    if checked and len(unreadable) == len(checked):
        raise unreadable[0]
    return pairs, failures


def _check_size(mask: Path, size: tuple[int, ...], image: tuple[int, ...]) -> None:
    if size != image:
        raise UserError(f"{mask}: size {size} for an image of {image}; made from other images?")


def _check_labels(mask: Path, labels: np.ndarray, num_labels: int) -> None:
    strange = labels[(labels >= num_labels) & (labels != IGNORE_INDEX)]
    if strange.size:
        raise UserError(
            f"{mask}: holds label {strange.min()}, but there are labels 0 to {num_labels - 1} only;"
            " pass the --dataset or --classes that the masks were made with, or --mask_values"
        )
