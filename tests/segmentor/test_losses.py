"""Losses against loops over pixels."""

import math

import numpy as np
import pytest
import torch

from segmentor.losses import IGNORE, label_counts, label_weights, weighted_cross_entropy


def case(seed: int, labels: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (2, 4, 5, 6) and labels (2, 5, 6) drawn from those given."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(2, 4, 5, 6))), torch.from_numpy(rng.choice(np.array(labels), (2, 5, 6)))


def minus_logs(scores: torch.Tensor, labels: torch.Tensor) -> dict[int, list[float]]:
    """-log softmax of the true label at every pixel, by label."""
    found: dict[int, list[float]] = {}
    for image in range(2):
        for y in range(5):
            for x in range(6):
                label, values = int(labels[image, y, x]), scores[image, :, y, x].tolist()
                if label != IGNORE:
                    total = math.log(sum(math.exp(value) for value in values))
                    found.setdefault(label, []).append(total - values[label])
    return found


def loss_of(scores: torch.Tensor, labels: torch.Tensor, kind: str, over: str = "valid") -> float:
    weights = label_weights(label_counts(labels, 4), kind, over)
    return float(weighted_cross_entropy(scores, labels, weights.double()))


@pytest.mark.parametrize("labels", [(0, 1, 2, 3, 255), (0, 255), (2, 3), (1,)])
def test_cross_entropy_is_the_mean_over_valid_pixels(labels: tuple[int, ...]) -> None:
    scores, truth = case(0, labels)
    every = [value for values in minus_logs(scores, truth).values() for value in values]
    assert loss_of(scores, truth, "ce") == pytest.approx(sum(every) / len(every), rel=1e-5)
    assert loss_of(scores, truth, "ce", "all") == pytest.approx(sum(every) / truth.numel(), rel=1e-5)


@pytest.mark.parametrize("labels", [(0, 1, 2, 3, 255), (0, 0, 0, 0, 3), (0, 255), (2, 3)])
def test_balanced_gives_background_and_the_rest_one_half_each(labels: tuple[int, ...]) -> None:
    scores, truth = case(1, labels)
    found = minus_logs(scores, truth)
    parts = [found.get(0, []), [value for label, values in found.items() if label for value in values]]
    means = [sum(part) / len(part) for part in parts if part]
    assert loss_of(scores, truth, "balanced") == pytest.approx(sum(means) / len(means), rel=1e-5)


@pytest.mark.parametrize("kind", ["ce", "balanced"])
def test_nothing_to_learn_is_no_loss_and_no_nan(kind: str) -> None:
    scores, truth = case(2, (255,))
    scores.requires_grad_()
    weights = label_weights(label_counts(truth, 4), kind, "all")
    weighted_cross_entropy(scores, truth, weights.double()).backward()
    assert scores.grad is not None and not scores.grad.any()


def test_cutting_a_step_changes_nothing() -> None:
    """Two batches with the weights of both have the gradient of one batch."""
    scores, truth = case(3, (0, 1, 2, 3, 255, 255))
    weights = label_weights(label_counts(truth, 4), "balanced").double()
    parts = sum(float(weighted_cross_entropy(scores[i : i + 1], truth[i : i + 1], weights)) for i in range(2))
    assert parts == pytest.approx(loss_of(scores, truth, "balanced"), rel=1e-6)
