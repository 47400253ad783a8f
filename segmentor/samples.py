"""The training samples of a run: reading images and masks, their order, and batches.

The sample at a position of the run depends on the seed and the position alone, so that a run can go on from any
iteration, with any number of processes, and sees the same.
"""

import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.images import image_size, read_image
from dataset.mask_png import read_mask
from dataset.voc_layout import find_image
from segmentor.augment import HIDDEN, IGNORE, hide, view
from segmentor.settings import Views

CHECKED_MASKS = 16  # whose labels are checked before the run begins

_ORDER, _VIEW = range(2)  # what a random number is for; training.loop takes another

Problem = tuple[str, str]  # the id of an image, and what is wrong with it


@dataclass(frozen=True)
class Pair:
    """A training image and its mask; None: there is none, and all of the image is hidden."""

    id: str
    image: Path
    mask: Path | None


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


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(images)


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
        epoch, place = divmod(position, len(self.pairs))
        return self.pairs[int(_order(self.seed, epoch, len(self.pairs))[place])]

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


class Batches:
    """The batches of one rank, without end, each with the next positions of the run in turn.

    readers  processes that read ahead; 0: batches are read when they are asked for
    pin      whether they lie in memory from which a GPU copies faster
    """

    def __init__(
        self, samples: Samples, batch: int, rank: int = 0, ranks: int = 1, readers: int = 0, pin: bool = False
    ) -> None:
        self.samples, self.batch, self.rank, self.ranks = samples, batch, rank, ranks
        self.readers, self.pin = readers, pin
        self.yielded = 0

    def positions(self, number: int) -> list[int]:
        """The positions of this rank's batch of a 0-based number."""
        first = (number * self.ranks + self.rank) * self.batch
        return list(range(first, first + self.batch))

    def __iter__(self) -> Iterator[Batch]:
        loader: DataLoader = DataLoader(
            self.samples,
            batch_sampler=map(self.positions, count(self.yielded)),
            num_workers=self.readers,
            collate_fn=collate,
            pin_memory=self.pin,
            worker_init_fn=_start_reader,
        )
        for batch in loader:
            self.yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches were yielded."""
        return {"yielded": self.yielded}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after so many batches."""
        self.yielded = state["yielded"]


def _start_reader(_index: int) -> None:
    cv2.setNumThreads(0)  # the readers work side by side already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the trainer ends its readers


def read_pair(pair: Pair, num_labels: int, hidden: Collection[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB and (H, W) uint8 labels, HIDDEN in place of the hidden ones.

    Raises UserError, naming the file, when they do not fit.
    """
    image = np.asarray(read_image(pair.image))
    if pair.mask is None:
        return image, np.full(image.shape[:2], HIDDEN, np.uint8)
    labels = read_mask(pair.mask)
    _check_size(pair.mask, labels.shape, image.shape[:2])
    _check_labels(pair.mask, labels, num_labels)
    return image, hide(labels, hidden) if hidden else labels


def training_pairs(
    ids: Sequence[str], images: Path, masks: Path | None, num_labels: int
) -> tuple[list[Pair], list[Problem]]:
    """The pairs whose files exist and have one size, by their headers, and what is wrong with the others.

    Raises UserError when none is left, or when one of the first masks holds labels of other classes.
    """
    pairs, failures = [], []
    for image_id in ids:
        try:
            pair = Pair(image_id, find_image(images, image_id), masks / f"{image_id}.png" if masks else None)
            size = image_size(pair.image)
            if pair.mask is not None:
                if not pair.mask.is_file():
                    raise UserError(f"{pair.mask}: no such mask")
                _check_size(pair.mask, image_size(pair.mask), size)
            pairs.append(pair)
        except UserError as error:
            failures.append((image_id, str(error)))
    if not pairs:
        raise UserError(f"nothing to train on: {failures[0][1] if failures else 'no image in the split'}")
    checked, unreadable = [pair.mask for pair in pairs[:CHECKED_MASKS] if pair.mask], []
    for mask in checked:
        try:
            labels = read_mask(mask)
        except UserError as error:  # a single one is listed when its turn comes
            unreadable.append(error)
            continue
        _check_labels(mask, labels, num_labels)
    if checked and len(unreadable) == len(checked):
        raise unreadable[0]
    return pairs, failures


def _check_size(mask: Path, size: tuple[int, ...], image: tuple[int, ...]) -> None:
    if size != image:
        raise UserError(f"{mask}: size {size} for an image of {image}; made from other images?")


def _check_labels(mask: Path, labels: np.ndarray, num_labels: int) -> None:
    strange = labels[(labels >= num_labels) & (labels != IGNORE)]
    if strange.size:
        raise UserError(
            f"{mask}: holds label {strange.min()}, but there are labels 0 to {num_labels - 1} only;"
            " pass the --dataset or --classes that the masks were made with"
        )
