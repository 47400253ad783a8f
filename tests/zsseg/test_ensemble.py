"""A network's and CLIP's probabilities together, against loops; the reference's are compared in benchmarks/parity."""

import numpy as np
import pytest

from zsseg.ensemble import ensemble, of_classes, seen_classes

RANDOM = np.random.default_rng(0)
NETWORK = RANDOM.dirichlet(np.ones(5), 6)[:, :4]  # the fifth is "no object"
CLIP, NUMBERS = RANDOM.dirichlet(np.ones(4), 3), np.array([1, 2, 5])
SEEN = np.array([True, False, True, False])


@pytest.mark.parametrize("weight", [0.7, 1.0, 0.4])
def test_scores_are_products_of_powers(weight: float) -> None:
    found = ensemble(NETWORK, CLIP, NUMBERS, SEEN, weight)
    for q in range(6):
        for k in range(4):
            c = CLIP[list(NUMBERS).index(q), k] if q in NUMBERS else 1.0
            share = weight if SEEN[k] else 1 - weight
            assert found[q, k] == pytest.approx(NETWORK[q, k] ** share * c ** (1 - share), rel=1e-5)


def test_without_weight_clip_decides_alone() -> None:
    found = ensemble(NETWORK, CLIP, NUMBERS, SEEN, 0.0)
    assert np.allclose(found[NUMBERS], CLIP) and not found[[0, 3, 4]].any()


def test_the_classes_that_are_asked_for_share_what_the_others_had() -> None:
    found = of_classes(NETWORK, [3, 0])
    for row, whole in zip(found, NETWORK):
        nothing = 1 - whole.sum()
        total = whole[3] + whole[0] + nothing
        assert row == pytest.approx([whole[3] / total, whole[0] / total], abs=1e-6)
    assert np.allclose(of_classes(NETWORK, range(4)), NETWORK)


def test_what_a_network_is_taken_to_know() -> None:
    names = ("dog", "cat", "bus", "tree")
    assert seen_classes(names, (2,), None) == (0, 1, 3)
    assert seen_classes(names, (2,), ("tree", "bus", "dog", "car")) == (0, 2, 3)  # learned from pseudo masks
    assert seen_classes(names, (), None) == () == seen_classes(names, (), names)  # another data set: as published
