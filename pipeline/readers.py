"""Processes that decode and prepare images beside the device, by torch's DataLoader. May import torch and common."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from common.errors import UserError

In = TypeVar("In")
Out = TypeVar("Out")
AHEAD = 2  # results that wait, or are under way, per process


class _Work(Dataset):
    """A data set whose indices are the items themselves."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __getitem__(self, item: Any) -> Any:
        return self.work(item)


def _as_it_is(result: Any) -> Any:
    return result


def in_processes(work: Callable[[In], Out], items: Iterable[In], processes: int) -> Iterator[Out]:
    """`map` in worker processes: results in the order of the items, a bounded number of them under way.

    `work` and the items must be picklable; tensors of the results come back through shared memory. The items are
    drawn in the caller's process as they are needed. Raises UserError when a process dies.
    """
    loader = DataLoader(
        _Work(work),
        sampler=items,  # any iterable, also one without a length
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=processes,
        prefetch_factor=AHEAD,
        multiprocessing_context="spawn",  # a forked child of a process that uses CUDA or OpenMP may hang
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError("a reader process ended unexpectedly (out of memory?); repeat with fewer --readers") from error
