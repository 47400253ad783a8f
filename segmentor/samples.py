"""The training samples of a run: reading images and masks, and views of them.

The sample at a position of the run depends on the seed and the position alone, so that a run can go on from any
iteration, with any number of processes, and sees the same.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from segmentor.augment import HIDDEN, IGNORE, hide, view
from segmentor.settings import Views
from training import pairs
from training.batches import shuffled
from training.pairs import Pair, Problem

_VIEW = 1  # what a random number is for; training.loop and training.batches take others


@dataclass(frozen=True)
class Batch:
    """images (B, 3, S, S) float32 normalised, labels (B, S, S) int64, and the images that could not be read.

    Labels are mask values, HIDDEN where one is to be found, 255 to ignore.
    """

    images: Tensor
    labels: Tensor
    problems: tuple[Problem, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        images, labels = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.labels))
        return Batch(images, labels, self.problems)


class Samples(Dataset):
    """The sample at each position of a run; every image comes once an epoch, in an order of the epoch's own.

    hidden  mask values that become HIDDEN
    """

    def __init__(
        self, pairs: Sequence[Pair], num_labels: int, views: Views, seed: int, hidden: Collection[int] = ()
    ) -> None:
        self.pairs, self.num_labels, self.views, self.seed = list(pairs), num_labels, views, seed
        self.hidden = tuple(hidden)

    def pair(self, position: int) -> Pair:
        return self.pairs[shuffled(self.seed, position, len(self.pairs))]

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray, Problem | None]:
        """Image (3, S, S), labels (S, S), and None; for an unreadable pair zeros, labels of 255, and the problem."""
        pair, side = self.pair(position), self.views.crop
        try:
            image, labels = read_pair(pair, self.num_labels, self.hidden)
        except UserError as error:
            return np.zeros((3, side, side), np.float32), np.full((side, side), IGNORE, np.int64), (pair.id, str(error))
        rng = np.random.default_rng([self.seed, _VIEW, position])
        return *view(image, labels, self.views, rng), None


def collate(samples: Sequence[tuple[np.ndarray, np.ndarray, Problem | None]]) -> Batch:
    """A batch of samples."""
    images, labels, problems = zip(*samples)
    kept = tuple(problem for problem in problems if problem is not None)
    return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), kept)


def read_pair(pair: Pair, num_labels: int, hidden: Collection[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB and (H, W) uint8 labels, HIDDEN in place of the hidden ones, and without a mask everywhere.

    Raises UserError, naming the file, when they do not fit.
    """
    image, labels = pairs.read_pair(pair, num_labels)
    if labels is None:
        return image, np.full(image.shape[:2], HIDDEN, np.uint8)
    return image, hide(labels, hidden) if hidden else labels
