"""The learning rate, against the values that published runs logged (other_systems, sections 3.3 and 8)."""

import pytest

from segmentor.schedule import Schedule

DEEPLAB = Schedule(base=0.005, total=4000, power=0.9, least=1e-4)
SEGFORMER = Schedule(base=2.4e-5, total=8000, warmup=1500)


@pytest.mark.parametrize(
    ("schedule", "iteration", "logged"),
    [(DEEPLAB, 50, 0.004946), (DEEPLAB, 1000, 0.003883), (DEEPLAB, 2000, 0.002727), (DEEPLAB, 4000, 0.0001028),
     (SEGFORMER, 50, 7.792e-7), (SEGFORMER, 100, 1.5644e-6), (SEGFORMER, 500, 7.486e-6), (SEGFORMER, 1000, 1.3988e-5),
     (SEGFORMER, 1500, 1.9490e-5), (SEGFORMER, 2000, 1.8003e-5)],
)  # fmt: skip
def test_logged_rates(schedule: Schedule, iteration: int, logged: float) -> None:
    """The logs count iterations from 1, and print four digits."""
    assert schedule.rate(iteration - 1) == pytest.approx(logged, rel=3e-4)


def test_the_first_iteration_is_not_lost() -> None:
    assert SEGFORMER.rate(0) == pytest.approx(2.4e-5 * 1e-6)
    assert Schedule(0.5, 10).rate(0) == 0.5
