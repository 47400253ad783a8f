"""Work beside the main thread, in order and bounded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(work: Callable[[In], Out], items: Iterable[In], threads: int, ahead: int = 2) -> Iterator[Out]:
    """`map` with threads: results in the order of the items, at most `threads * ahead` of them under way or waiting.

    The items are drawn in the caller's thread, so that a generator that computes runs beside the work. An exception
    of the work is raised where its result would have come. On the way out (also after Ctrl-C) what has begun is
    finished and what has not is dropped.
    """
    pending: deque[Future[Out]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= threads * ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
