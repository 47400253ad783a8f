"""The training losses against plain loops over tiny tensors."""

import math

import numpy as np
import pytest
import torch

from toyworld.training import losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_contrast_is_multi_positive_infonce_both_ways() -> None:
    logits = random(3, 4)
    matches = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]).bool()  # the last caption matches nothing
    values = logits.numpy().astype(float)

    def one_way(values: np.ndarray, matches: np.ndarray) -> float:
        per_row = []
        for row, hits in zip(values, matches):
            total = sum(math.exp(value) for value in row)
            terms = [-math.log(math.exp(value) / total) for value, hit in zip(row, hits) if hit]
            if terms:
                per_row.append(sum(terms) / len(terms))
        return sum(per_row) / len(per_row)

    expected = (one_way(values, matches.numpy()) + one_way(values.T, matches.numpy().T)) / 2
    assert math.isclose(losses.contrast(logits, matches).item(), expected, rel_tol=1e-5)


def test_pooled_is_a_soft_maximum_over_patches() -> None:
    cosines = random(2, 5, 3).clamp(-1, 1)
    tau = losses.POOLING_TEMPERATURE
    for image in range(2):
        for concept in range(3):
            mean = sum(math.exp(cosines[image, patch, concept].item() / tau) for patch in range(5)) / 5
            got = losses.pooled(cosines)[image, concept].item()
            assert math.isclose(got, tau * math.log(mean), rel_tol=1e-4, abs_tol=1e-5)
    torch.testing.assert_close(losses.pooled(torch.full((1, 7, 1), 0.3)), torch.tensor([[0.3]]))


def test_unnamed_is_the_surprise_at_what_patches_say_beside_the_caption() -> None:
    logits = random(2, 3, 4)
    present = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    terms = []
    for image in range(2):
        for patch in range(3):
            odds = [math.exp(value) for value in logits[image, patch].tolist()]
            named = sum(odd for odd, here in zip(odds, present[image].tolist()) if here)
            terms.append(-math.log(named / sum(odds)))
    assert math.isclose(losses.unnamed(logits, present).item(), sum(terms) / len(terms), rel_tol=1e-5)


@pytest.mark.parametrize("reach", [0.0, 1.5])
def test_affinity_is_weighted_cross_entropy_against_agreement_nearby(reach: float) -> None:
    attention, posteriors = random(2, 6, 6).softmax(-1), random(2, 6, 3, seed=1).softmax(-1)
    places = [(row, column) for row in range(2) for column in range(3)]
    weighted, weights = 0.0, 0.0
    for image in range(2):
        for i in range(6):
            agreement = [float(posteriors[image, i] @ posteriors[image, j]) for j in range(6)]
            weight = 1 / sum(agreement)
            if reach:
                squares = [math.dist(places[i], place) ** 2 for place in places]
                agreement = [value * math.exp(-square / (2 * reach**2)) for value, square in zip(agreement, squares)]
            row = -sum(agreement[j] / sum(agreement) * math.log(float(attention[image, i, j])) for j in range(6))
            weighted += row * weight
            weights += weight
    near = losses.nearness(2, 3, reach) if reach else None
    assert math.isclose(losses.affinity(attention, posteriors, near).item(), weighted / weights, rel_tol=1e-5)
