"""The training samples of a MaskFormer: images, and the classes in them that may be known.

The sample at a position of the run depends on the seed and the position alone (training/batches.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from dataset.spec import IGNORE_INDEX, DatasetSpec
from training.batches import shuffled
from training.pairs import Pair, Problem, read_pair
from zsseg.training.augment import Views, view

_VIEW = 1  # what a random number is for; training.loop and training.batches take others


def label_table(spec: DatasetSpec, classes: Sequence[int], background: int = IGNORE_INDEX) -> np.ndarray:
    """(256,) uint8: by mask value the place of its class among `classes`; 255 for all others.

    background  for pixels of the background. 255: nothing says where a class that must not be known is, nor that it
                is not background
    """
    table = np.full(256, IGNORE_INDEX, np.uint8)
    if spec.has_background:
        table[0] = background
    for place, index in enumerate(classes):
        table[index + int(spec.has_background)] = place
    return table


@dataclass(frozen=True)
class Batch:
    """images (B, 3, S, S) uint8 RGB, labels (B, S, S) uint8 with 255 to ignore, and what could not be read."""

    images: Tensor
    labels: Tensor
    problems: tuple[Problem, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        images, labels = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.labels))
        return Batch(images, labels, self.problems)


class Samples(Dataset):
    """The sample at each position of a run; every image comes once an epoch, in an order of the epoch's own.

    num_labels  mask values that may occur
    table       of label_table
    """

    def __init__(self, pairs: Sequence[Pair], num_labels: int, table: np.ndarray, views: Views, seed: int) -> None:
        self.pairs, self.num_labels, self.table, self.views, self.seed = list(pairs), num_labels, table, views, seed

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray, Problem | None]:
        """Image (S, S, 3), labels (S, S), and None; an unreadable pair has no labels, and the problem."""
        pair, side = self.pairs[shuffled(self.seed, position, len(self.pairs))], self.views.crop
        try:
            image, labels = read_pair(pair, self.num_labels)
        except UserError as error:
            nothing = np.full((side, side), IGNORE_INDEX, np.uint8)
            return np.zeros((side, side, 3), np.uint8), nothing, (pair.id, str(error))
        assert labels is not None
        rng = np.random.default_rng([self.seed, _VIEW, position])
        return *view(image, self.table[labels], self.views, rng), None


def collate(samples: Sequence[tuple[np.ndarray, np.ndarray, Problem | None]]) -> Batch:
    """A batch of samples."""
    images, labels, problems = zip(*samples)
    kept = tuple(problem for problem in problems if problem is not None)
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Batch(stacked, torch.from_numpy(np.stack(labels)), kept)
