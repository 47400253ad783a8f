"""Outcomes as the JSON that travels through Ray."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple
from typing import Any

from common.errors import StopRun, UserError
from common.outcome import Outcome

LOST = "its worker process ended unexpectedly each time it was tried (out of memory?)"


def report_of(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    return {"outcomes": [list(astuple(outcome)) for outcome in outcomes]}


def outcomes_of(report: dict[str, Any]) -> Iterator[Outcome]:
    return (Outcome(*fields) for fields in report["outcomes"])


def finished_of(look: Callable[[list[Any]], set[str]], items: Iterable[Any]) -> set[str]:
    """What `look` finds finished, item by item: one that was made in another way is not."""
    found: set[str] = set()
    for item in items:
        with suppress(UserError):
            found |= look([item])
    return found


def only_looked(ids: Iterable[str], finished: Iterable[str]) -> list[Outcome]:
    """What became of images whose unit cost every worker its life: some may be finished all the same."""
    there = set(finished)
    return [Outcome(key, "kept") if key in there else Outcome(key, "failed", f"{key}: {LOST}") for key in ids]


def all_failed(ids: Sequence[str], work: Callable[[], list[Outcome]], told: Callable[[object], str]) -> list[Outcome]:
    """The outcomes of some work; when it fails in a way nobody foresaw, each of its images has failed.

    told  puts addresses for paths of this machine
    """
    try:
        return work()
    except (UserError, StopRun) as error:
        raise type(error)(told(error)) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(told(error).split())[:200]}"
        return [Outcome(key, "failed", f"{key}: {reason}") for key in ids]
