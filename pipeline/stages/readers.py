"""Processes that decode and prepare images beside the device, by torch's DataLoader."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from common.errors import StopRun

In = TypeVar("In")
Out = TypeVar("Out")
AHEAD = 2  # results that wait, or are under way, per process


class _Work(Dataset):
    """A data set whose indices are the items themselves."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __getitem__(self, item: Any) -> Any:
        return self.work(item)


def _unchanged(result: Any) -> Any:
    return result


def in_processes(work: Callable[[In], Out], items: Iterable[In], processes: int) -> Iterator[Out]:
    """`map` in worker processes: results in the order of the items, a bounded number of them under way.

    `work` and the items must be picklable; tensors of the results come back through shared memory. The items are
    drawn in the caller's process as they are needed. Raises StopRun when a process dies: what was written is whole,
    and the same command goes on from there.
    """
    loader = DataLoader(
        _Work(work),
        sampler=items,  # any iterable, also one without a length
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=processes,
        prefetch_factor=AHEAD,
        multiprocessing_context="spawn",  # a forked child of a process that uses CUDA or OpenMP may hang
    )
    handler = signal.getsignal(signal.SIGCHLD)
    results = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch's handler would raise in the midst of whatever this thread does when a process dies
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    while True:
        try:
            result = next(results)
        except StopIteration:
            return
        except (ConnectionError, EOFError, RuntimeError) as error:
            # the first two where the process died before its tensors were fetched
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            message = "a reader process ended unexpectedly (out of memory?); repeat the command with fewer --readers"
            raise StopRun(message) from error
        yield result
