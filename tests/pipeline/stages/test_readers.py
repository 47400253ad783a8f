"""Reader processes give what the work gives, in order; one that dies ends the run in one line."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from common.errors import StopRun
from pipeline.stages.readers import AHEAD, in_processes

pytestmark = pytest.mark.slow  # every process imports torch


def squares(number: int) -> tuple[int, torch.Tensor]:
    return number, torch.arange(number) ** 2


def die_at_three(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


def test_results_come_in_order_and_whole_and_items_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(50):
            drawn.append(number)
            yield number

    results = in_processes(squares, items(), 2)
    found = [next(results)]
    assert len(drawn) <= 2 * AHEAD + 2
    found.extend(results)
    assert [number for number, _ in found] == list(range(50))
    assert all(result.tolist() == [i * i for i in range(number)] for number, result in found)


def test_a_dead_process_ends_the_run_in_one_line() -> None:
    before, found = signal.getsignal(signal.SIGCHLD), []
    with pytest.raises(StopRun, match="reader process ended unexpectedly"):
        found.extend(in_processes(die_at_three, range(9), 1))
    assert signal.getsignal(signal.SIGCHLD) == before
