"""Ctrl-C and SIGTERM that wait for the end of a step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from common.errors import Terminated


class Asked:
    """Which signal asked the run to end, if any; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number

    def end(self, number: int) -> KeyboardInterrupt:
        """What to raise for a signal."""
        return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def waiting() -> Iterator[Asked]:
    """Within the block the first signal is only noted; a signal that the process ignores stays ignored."""
    asked = Asked()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, asked)
        yield asked
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
