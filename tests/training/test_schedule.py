"""The learning rate, against the values that published runs logged."""

import math

import pytest

from training.schedule import cosine, polynomial, warm_cosine

DEEPLAB = {"base": 0.005, "total": 4000, "power": 0.9, "least": 1e-4}
SEGFORMER = {"base": 2.4e-5, "total": 8000, "power": 1.0, "warmup": 1500}


@pytest.mark.parametrize(
    ("schedule", "iteration", "logged"),
    [(DEEPLAB, 50, 0.004946), (DEEPLAB, 1000, 0.003883), (DEEPLAB, 2000, 0.002727), (DEEPLAB, 4000, 0.0001028),
     (SEGFORMER, 50, 7.792e-7), (SEGFORMER, 100, 1.5644e-6), (SEGFORMER, 500, 7.486e-6), (SEGFORMER, 1000, 1.3988e-5),
     (SEGFORMER, 1500, 1.9490e-5), (SEGFORMER, 2000, 1.8003e-5)],
)  # fmt: skip
def test_logged_rates(schedule: dict, iteration: int, logged: float) -> None:
    """The logs count iterations from 1, and print four digits."""
    assert polynomial(iteration - 1, **schedule) == pytest.approx(logged, rel=3e-4)


def test_the_first_iteration_is_not_lost() -> None:
    assert polynomial(0, **SEGFORMER) == pytest.approx(2.4e-5 * 1e-6)  # type: ignore[arg-type]
    assert polynomial(0, 0.5, 10, 1.0) == 0.5


def test_cosine() -> None:
    rates = [cosine(iteration, 2.0, 24, 0.1, 4) for iteration in range(25)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0] and rates[4] == 2.0
    for iteration in range(4, 25):
        assert rates[iteration] == pytest.approx(0.2 + 0.9 * (1 + math.cos(math.pi * (iteration - 4) / 20)))


def test_the_warm_up_is_a_share_of_the_run_and_the_last_rate_is_0() -> None:
    """The first rates of a published run of 400 steps, then half a cosine."""
    rates = [warm_cosine(iteration, 4e-3, 400, 0.15) for iteration in range(400)]
    assert rates[:3] == pytest.approx([6.6666667e-5, 1.3333333e-4, 2e-4]) and max(rates) == rates[59] == 4e-3
    assert rates[59 + 170] == pytest.approx(2e-3) and rates[399] == pytest.approx(0, abs=1e-12)
    assert warm_cosine(0, 1.0, 10, 0.0) < 1
