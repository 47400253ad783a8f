"""Processes that report to their parent. Each starts a Python with torch, so all of these are slow."""

import os
import signal
from collections.abc import Iterator

import pytest

from common.console import Outcome
from common.errors import UserError
from common.workers import run_workers

pytestmark = pytest.mark.slow


def count_up(index: int, task: int) -> Iterator[Outcome]:
    for number in range(task):
        yield Outcome(f"{index}-{number}", "made")


def die(index: int, task: int) -> Iterator[Outcome]:
    yield Outcome(f"{index}-0", "made")
    if index == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does when memory runs out
    yield Outcome(f"{index}-1", "made")


def refuse(index: int, task: int) -> Iterator[Outcome]:
    yield Outcome(f"{index}-0", "made")
    raise UserError(f"weights of worker {index} are missing")


def test_outcomes_of_all_workers_arrive() -> None:
    found = [outcome.id for outcome in run_workers(count_up, [2, 0, 3])]
    assert sorted(found) == ["0-0", "0-1", "2-0", "2-1", "2-2"]
    assert [one for one in found if one[0] == "2"] == ["2-0", "2-1", "2-2"]


def test_a_dead_worker_is_told_instead_of_waited_for() -> None:
    with pytest.raises(UserError, match="worker 1 ended unexpectedly"):
        list(run_workers(die, [1, 1]))


def test_a_workers_user_error_is_the_commands() -> None:
    with pytest.raises(UserError, match="weights of worker 0 are missing"):
        list(run_workers(refuse, [1]))
