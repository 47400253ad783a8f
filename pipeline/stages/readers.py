"""Processes that decode and prepare images beside the device, by torch's DataLoader."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.outcome import Outcome
from pipeline.stages.batches import Batch

In = TypeVar("In")
Out = TypeVar("Out")
AHEAD = 2  # results that wait, or are under way, per process
DEATHS = 5  # in a row, of processes with one item each, after which the items are not to blame


class _Work(Dataset):
    """A data set whose indices are the items themselves."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __getitem__(self, item: Any) -> Any:
        return self.work(item)


def _as_it_is(result: Any) -> Any:
    return result


def in_processes(
    work: Callable[[In], Out], items: Iterable[In], processes: int, lost: Callable[[In], Out] | None = None
) -> Iterator[Out]:
    """`map` in worker processes: results in the order of the items, a bounded number of them under way.

    lost  makes the result of an item on which a process died

    `work` and the items must be picklable; tensors of the results come back through shared memory. The items are
    drawn in the caller's process as they are needed. When a process dies, what was under way is done again one by one,
    to find out on which item. Raises UserError when processes die whatever they work on, or there is no `lost`.
    """
    items = iter(items)
    under_way: deque[In] = deque()
    while True:
        try:
            yield from _until_death(work, items, under_way, processes, AHEAD)
            return
        except _Died:
            if lost is None:
                raise _not_to_blame() from None
        suspects = list(under_way)
        under_way.clear()
        yield from _one_by_one(work, suspects, lost)


def _one_by_one(work: Callable[[In], Out], suspects: Iterable[In], lost: Callable[[In], Out]) -> Iterator[Out]:
    """The same with one process that has one item at a time."""
    items = iter(suspects)
    under_way: deque[In] = deque()
    deaths = 0  # in a row
    while True:
        try:
            for result in _until_death(work, items, under_way, 1, 1):
                deaths = 0
                yield result
            return
        except _Died:
            deaths += 1
        if deaths == DEATHS or not under_way:
            raise _not_to_blame()
        yield lost(under_way.popleft())


class _Died(Exception):
    """A process did."""


def _not_to_blame() -> UserError:
    return UserError("a reader process ended unexpectedly (out of memory?); repeat with fewer --readers")


def _until_death(
    work: Callable[[In], Out], items: Iterator[In], under_way: deque[In], processes: int, ahead: int
) -> Iterator[Out]:
    """Results until the items end; raises _Died when a process dies, and `under_way` then holds what that cost."""
    loader = DataLoader(
        _Work(work),
        sampler=_drawn(items, under_way),  # any iterable, also one without a length
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=processes,
        prefetch_factor=ahead,
        multiprocessing_context="spawn",  # a forked child of a process that uses CUDA or OpenMP may hang
    )
    with _own_handler():
        results = iter(loader)
    while True:
        try:
            result = next(results)
        except StopIteration:
            return
        except (ConnectionError, EOFError) as error:  # it died before its tensors had been fetched from it
            raise _Died from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise _Died from error
        under_way.popleft()
        yield result


def _drawn(items: Iterable[In], under_way: deque[In]) -> Iterator[In]:
    for item in items:
        under_way.append(item)
        yield item


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keeps torch from raising in the midst of whatever the main thread does when a process dies."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


# --- batches --------------------------------------------------------------------------------------


def read_one_by_one(read: Callable[[Batch], Batch], batch: Batch) -> Batch:
    """A batch on which a reader process died, image by image, in processes again; those that cost one more fail."""
    whole = Batch([])
    for alone in in_processes(read, [Batch([sample]) for sample in batch.samples], 1, _given_up):
        for name in ("samples", "images", "sizes", "outcomes"):
            getattr(whole, name).extend(getattr(alone, name))
    return whole


def _given_up(batch: Batch) -> Batch:
    reason = "a reader process ended unexpectedly with this image (out of memory?)"
    return Batch([], outcomes=[Outcome(sample.id, "failed", f"{sample.image}: {reason}") for sample in batch.samples])
