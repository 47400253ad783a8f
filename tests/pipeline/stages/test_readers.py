"""Reader processes give what the work gives, in order; one that dies costs the item it died on."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from common.outcome import Outcome
from dataset.spec import Sample
from pipeline.stages import readers
from pipeline.stages.batches import Batch
from pipeline.stages.readers import AHEAD, in_processes, read_one_by_one


def squares(number: int) -> tuple[int, torch.Tensor]:
    return number, torch.arange(number) ** 2


def die_at_three(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


def test_results_come_in_order_and_whole() -> None:
    found = list(in_processes(squares, range(9), 2))
    assert [number for number, _ in found] == list(range(9))
    assert all(result.tolist() == [i * i for i in range(number)] for number, result in found)


def test_items_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(50):
            drawn.append(number)
            yield number

    results = in_processes(squares, items(), 1)
    assert next(results)[0] == 0
    assert len(drawn) <= AHEAD + 2
    results.close()  # type: ignore[attr-defined]


def test_a_dead_process_ends_in_one_line() -> None:
    with pytest.raises(UserError, match="reader process ended unexpectedly"):
        list(in_processes(die_at_three, range(9), 1))


class Torn:
    """What can no longer be fetched when it is unpacked, as tensors of a process that has died meanwhile."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return reset, ()


def reset() -> None:
    raise ConnectionResetError(104, "Connection reset by peer")


def torn_once_at_two(item: tuple[int, Path]) -> int | Torn:
    number, mark = item
    if number == 2 and not mark.exists():
        mark.touch()
        return Torn()
    return number


@pytest.mark.slow
def test_what_a_dead_process_had_still_to_hand_over_is_made_again(tmp_path: Path) -> None:
    items = [(number, tmp_path / "mark") for number in range(4)]
    assert list(in_processes(torn_once_at_two, items, 1, lambda item: -item[0])) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_dead_process_costs_the_item_it_died_on() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    found = list(in_processes(die_at_three, range(5), 1, lambda number: -number))
    assert found == [0, 1, 2, -3, 4] and signal.getsignal(signal.SIGCHLD) == before


# --- what is done about deaths, with processes that are played -------------------------------------


class Death(Exception):
    """What the work raises where a process would die."""


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Returns, for each start of processes, the items that they were given."""
    starts: list[list[Any]] = []

    def until_death(
        work: Callable[[Any], Any], items: Iterator[Any], under_way: deque[Any], processes: int, ahead: int
    ) -> Iterator[Any]:
        starts.append([])
        while True:
            for item in islice(items, processes * ahead - len(under_way)):
                under_way.append(item)
                starts[-1].append(item)
            if not under_way:
                return
            try:
                result = work(under_way[0])
            except Death:
                raise readers._Died from None
            under_way.popleft()
            yield result

    monkeypatch.setattr(readers, "_until_death", until_death)
    return starts


def die_at_odd_tens(number: int) -> int:
    if number // 10 % 2:
        raise Death
    return number


def test_what_was_under_way_is_done_again_one_by_one(played: list[list[Any]]) -> None:
    found = list(in_processes(die_at_odd_tens, iter([0, 1, 10, 2, 11, 3, 4, 12]), 2, lambda number: -number))
    assert found == [0, 1, -10, 2, -11, 3, 4, -12]
    assert played == [[0, 1, 10, 2, 11, 3], [10], [2, 11], [3], [4, 12], [12], [], []]


def test_processes_that_always_die_are_not_the_items_fault(played: list[list[Any]]) -> None:
    lost: list[int] = []
    with pytest.raises(UserError, match="fewer --readers"):
        list(in_processes(die_at_odd_tens, range(10, 20), 4, lambda number: lost.append(number) or number))
    assert lost == [10, 11, 12, 13]


def read_or_die(batch: Batch) -> Batch:
    for sample in batch.samples:
        if sample.id == "bad":
            raise Death
        if sample.id == "odd":
            batch.outcomes.append(Outcome("odd", "failed", "odd"))
        else:
            batch.images.append(torch.full((1,), float(sample.labels[0])))
            batch.sizes.append((sample.labels[0], 1))
    batch.samples = [sample for sample in batch.samples if sample.id != "odd"]
    return batch


def test_the_other_images_of_a_batch_are_read(played: list[list[Any]]) -> None:
    samples = [Sample(image_id, Path(f"{image_id}.jpg"), (at,)) for at, image_id in enumerate(["a", "odd", "bad", "c"])]
    found = read_one_by_one(read_or_die, Batch(samples))
    assert [sample.id for sample in found.samples] == ["a", "c"] and found.sizes == [(0, 1), (3, 1)]
    assert [image.tolist() for image in found.images] == [[0.0], [3.0]]
    assert [(outcome.id, outcome.status) for outcome in found.outcomes] == [("odd", "failed"), ("bad", "failed")]
    assert "bad.jpg: a reader process ended unexpectedly with this image" in found.outcomes[1].reason
