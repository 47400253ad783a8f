"""What the tests of the loop train: a network of two layers that fits a table of numbers."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from training.loop import Training, parameter_groups
from training.ranks import Ranks, start_ranks
from training.schedule import polynomial
from training.state import State, fresh_state

ALONE = Ranks(torch.device("cpu"))
SETTINGS = {"lr": 0.05, "seed": 3}


def table() -> Tensor:
    """(10, 5): four numbers a row, and what is to be said of them."""
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 5))).float()
    values[:, 4] = values[:, 0] - 2 * values[:, 1]
    return values


class Shuffled:
    """This rank's rows, epoch after epoch in a new order, whose generator's state is all that the position knows."""

    def __init__(self, batch: int, ranks: Ranks = ALONE) -> None:
        self.batch, self.ranks, self.rng = batch, ranks, np.random.default_rng(1)
        self.order: list[int] = []

    def __iter__(self) -> Iterator[Tensor]:
        rows, whole = table(), self.batch * self.ranks.count
        while True:
            if len(self.order) < whole:
                self.order = self.rng.permutation(len(rows)).tolist()
            taken, self.order = self.order[:whole], self.order[whole:]
            yield rows[taken[self.ranks.index * self.batch :][: self.batch]]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.order, self.rng.bit_generator.state = list(state["order"]), state["rng"]


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout), nn.ReLU(), nn.Linear(8, 1))


def objective(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    said = model(batch[:, :4]).float()
    return {"loss": F.mse_loss(said, batch[:, 4:]), "distance": (said - batch[:, 4:]).abs().mean()}


def state(batch: int = 3, ranks: Ranks = ALONE, dropout: float = 0.0, sgd: bool = False, **more: Any) -> State:
    model = network(dropout)
    groups = parameter_groups(model, lambda name, parameter: (1.0, 0.01))
    optimizer = torch.optim.SGD(groups, 0.0, 0.9) if sgd else torch.optim.AdamW(groups, 0.0)
    return fresh_state(model, optimizer, Shuffled(batch, ranks), **more)


def training(out: Path, iterations: int = 9, **changes: Any) -> Training:
    def rate(iteration: int) -> float:
        return polynomial(iteration, 0.05, iterations, 1.0, warmup=2)

    usual: dict[str, Any] = {"objective": objective, "schedule": rate, "iterations": iterations, "out": out}
    return Training(**{**usual, "settings": SETTINGS, "save_every": 2, **changes})


def in_processes(count: int, work: Callable[[Ranks], None]) -> None:
    """Call `work` in so many processes of a run, as `as_torchrun` starts them."""

    def begin(rank: int) -> None:
        with start_ranks("cpu") as ranks:
            assert (ranks.index, ranks.count) == (rank, count)
            work(ranks)

    as_torchrun(count, begin)


def as_torchrun(count: int, work: Callable[[int], object]) -> None:
    """Call `work` with its number in so many processes as torchrun would start them; any that fails fails the test.

    They are forked from this one, which has everything imported, and speak gloo. This one holds the store in which they
    find each other, as torchrun does: its port is nobody else's from the start.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}

    def begin(rank: int) -> None:
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, **place}
        os.environ.update({name: str(value) for name, value in given.items()})
        torch.set_num_threads(1)
        work(rank)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=begin, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count
