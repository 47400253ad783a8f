"""An ordered map with threads: in order, bounded, and honest about errors."""

import threading
from collections.abc import Iterator

import pytest

from common.parallel import ordered_map


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_order_is_kept_though_later_items_finish_first(threads: int, count: int) -> None:
    """Every item waits for its successor, as far as both can be under way at once."""
    done = [threading.Event() for _ in range(count + 1)]

    def work(item: int) -> int:
        if item % threads != threads - 1 and item + 1 < count:
            assert done[item + 1].wait(10)
        done[item].set()
        return item * item

    assert list(ordered_map(work, range(count), threads)) == [item * item for item in range(count)]


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 2), (3, 1)])
def test_no_more_than_promised_is_drawn_ahead(threads: int, ahead: int) -> None:
    drawn, taken = 0, 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(20):
            assert drawn - taken < threads * ahead
            drawn += 1
            yield item

    for _ in ordered_map(lambda item: item, items(), threads, ahead):
        taken += 1
    assert drawn == taken == 20


def test_items_are_drawn_in_the_callers_thread() -> None:
    seen: list[int] = []

    def items() -> Iterator[int]:
        for item in range(4):
            seen.append(threading.get_ident())
            yield item

    workers = set(ordered_map(lambda _: threading.get_ident(), items(), 2))
    assert set(seen) == {threading.get_ident()} and threading.get_ident() not in workers


def test_an_error_comes_where_its_result_would_have() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    found = []
    with pytest.raises(ValueError, match="three"):
        for result in ordered_map(work, range(10), 2):
            found.append(result)
    assert found == [0, 1, 2]


def test_an_error_of_the_items_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("items")

    with pytest.raises(KeyError, match="items"):
        list(ordered_map(lambda item: item, items(), 2))


def test_leaving_early_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    results = ordered_map(lambda item: begun.append(item) or item, range(1000), 2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    count = len(begun)
    assert count <= 4 and threading.active_count() < 10
