"""Scores of the network on images that are not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from common.images import read_image
from common.parallel import ordered_map
from dataset.voc_layout import find_image
from pipeline.stages.evaluate import check_shape, read_truth
from pipeline.steps.scores import Scores, confusion_matrix, scores_of
from segmentor.prediction import probabilities
from segmentor.settings import Looks
from training.ranks import Ranks


@dataclass(frozen=True)
class Unseen:
    """The images to validate on and the folder of their ground-truth masks."""

    ids: Sequence[str]
    images: Path
    truth: Path


def validate(
    network: nn.Module, unseen: Unseen, num_labels: int, looks: Looks, ranks: Ranks
) -> tuple[Scores, list[tuple[str, str]]]:
    """Score a network in evaluation mode on all images, each on one rank.

    Returns the scores over all ranks, and (id, reason) of the images of this rank that could not be scored.
    """
    confusion, failures = np.zeros((num_labels, num_labels + 1), np.int64), []
    mine = unseen.ids[ranks.index :: ranks.count]
    for image_id, found in ordered_map(lambda key: _read(unseen, key, num_labels), mine, 2):
        if isinstance(found, str):
            failures.append((image_id, found))
            continue
        image, truth = found
        labels = probabilities(network, image, looks).argmax(0).astype(np.uint8)
        confusion += confusion_matrix(truth, labels, num_labels)
    return scores_of(ranks.sum(torch.from_numpy(confusion)).cpu().numpy()), failures


def _read(unseen: Unseen, image_id: str, num_labels: int) -> tuple[str, tuple[np.ndarray, np.ndarray] | str]:
    """Image and ground truth, or why they cannot be used."""
    try:
        path = find_image(unseen.images, image_id)
        truth = read_truth(unseen.truth, image_id, num_labels)
        image = np.asarray(read_image(path))
        check_shape(path, image.shape[:2], truth)
        return image_id, (image, truth)
    except UserError as error:
        return image_id, str(error)
