"""Which positions of a run go into which batch."""

import pytest
from torch.utils.data import Dataset

from training.batches import Batches


@pytest.mark.parametrize(("ranks", "batch"), [(1, 12), (2, 6), (2, 2), (3, 2), (1, 3)])
def test_a_step_has_the_same_positions_however_it_is_dealt(ranks: int, batch: int) -> None:
    samples: Dataset = []  # type: ignore[assignment]
    parts = 12 // ranks // batch
    for step in range(3):
        dealt = [
            Batches(samples, list, batch, rank, ranks).positions(step * parts + part)
            for rank in range(ranks)
            for part in range(parts)
        ]
        assert all(len(positions) == batch for positions in dealt)
        assert sorted(place for positions in dealt for place in positions) == list(range(step * 12, (step + 1) * 12))
