"""Several processes that report image by image to the one that started them. Imports common only."""

import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from common.console import Outcome
from common.errors import UserError

FILES_IN_FLIGHT_S = 5  # how long a worker may take after Ctrl-C to finish what it writes
Work = Callable[[int, Any], Iterator[Outcome]]


def run_workers(work: Work, tasks: Sequence[Any]) -> Iterator[Outcome]:
    """Run `work(index, task)` in a process a task and yield their outcomes as they come.

    Raises UserError when a worker meets one, or dies.
    """
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    workers = [
        context.Process(target=_report, args=(work, index, task, len(tasks), outcomes), daemon=True)
        for index, task in enumerate(tasks)
    ]
    for worker in workers:
        worker.start()
    try:
        yield from _collect(workers, outcomes)
    finally:
        for worker in workers:
            worker.join(timeout=0 if worker.exitcode is not None else FILES_IN_FLIGHT_S)
            worker.terminate()
            worker.join()


def _collect(workers: Sequence[Any], outcomes: Any) -> Iterator[Outcome]:
    running = set(range(len(workers)))
    while running:
        try:
            index, item = outcomes.get(timeout=1.0)
        except queue.Empty:
            dead = [index for index in running if not workers[index].is_alive()]
            if dead and outcomes.empty():
                code = workers[dead[0]].exitcode
                raise UserError(
                    f"worker {dead[0]} ended unexpectedly (exit {code}); the same command goes on"
                ) from None
            continue
        if isinstance(item, Outcome):
            yield item
        elif isinstance(item, str):
            raise UserError(item)
        else:
            running.discard(index)


def _report(work: Work, index: int, task: Any, count: int, outcomes: Any) -> None:
    """In the worker: outcomes, then None; a user's mistake as text. Cores are shared out among the workers."""
    try:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
        for outcome in work(index, task):
            outcomes.put((index, outcome))
        outcomes.put((index, None))
    except UserError as error:
        outcomes.put((index, str(error)))
    except KeyboardInterrupt:
        pass
