"""Batches of training samples, in an order that depends on the seed and the position in the run alone.

So a run can go on from any iteration, with any number of processes, and sees the same.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import count
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

_ORDER = 0  # what a random number is for; training.loop and samples take others


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(size)


def shuffled(seed: int, position: int, size: int) -> int:
    """The 0-based item at a position of a run: each of `size` items once an epoch, in an order of the epoch's own."""
    epoch, place = divmod(position, size)
    return int(_order(seed, epoch, size)[place])


class Counted:
    """The batches of one rank, without end: those of `loader`, which begins behind the ones that were yielded.

    readers  processes that read ahead; 0: batches are read when they are asked for
    pin      whether they lie in memory from which a GPU copies faster
    """

    def __init__(self, readers: int = 0, pin: bool = False) -> None:
        self.readers, self.pin, self.yielded = readers, pin, 0

    def loader(self, **how: Any) -> DataLoader:
        """A loader of the batches from number `yielded` on, made with the keywords `how` and its own."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader(num_workers=self.readers, pin_memory=self.pin, worker_init_fn=_start_reader):
            self.yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches were yielded."""
        return {"yielded": self.yielded}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after so many batches."""
        self.yielded = state["yielded"]


class Batches(Counted):
    """Each batch has the next positions of the run in turn.

    samples  the sample at each position of the run
    collate  makes a batch of a list of them
    """

    def __init__(
        self,
        samples: Dataset,
        collate: Callable[[list[Any]], Any],
        batch: int,
        rank: int = 0,
        ranks: int = 1,
        readers: int = 0,
        pin: bool = False,
    ) -> None:
        super().__init__(readers, pin)
        self.samples, self.collate, self.batch, self.rank, self.ranks = samples, collate, batch, rank, ranks

    def positions(self, number: int) -> list[int]:
        """The positions of this rank's batch of a 0-based number."""
        first = (number * self.ranks + self.rank) * self.batch
        return list(range(first, first + self.batch))

    def loader(self, **how: Any) -> DataLoader:
        numbers = map(self.positions, count(self.yielded))
        return DataLoader(self.samples, batch_sampler=numbers, collate_fn=self.collate, **how)


def _start_reader(_index: int) -> None:
    cv2.setNumThreads(0)  # the readers work side by side already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the trainer ends its readers
