"""Ctrl-C and SIGTERM that wait for the end of a step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from common.errors import Terminated


class Received:
    """The number of the signal that asked the run to end, or 0; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number

    def error(self) -> KeyboardInterrupt:
        """What to raise for it."""
        return Terminated() if self.number == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def waiting() -> Iterator[Received]:
    """Within the block the first signal is only noted; a signal that the process ignores stays ignored."""
    received = Received()
    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, received)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
