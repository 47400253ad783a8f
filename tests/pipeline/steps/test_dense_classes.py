"""Words, classes and thresholds, counted by hand; PAMR against a loop over pixels."""

import math

import pytest
import torch

from pipeline.steps.dense_classes import class_values, labels_above, to_logits, without_small_classes
from pipeline.steps.pamr import pamr


def test_a_class_has_the_best_of_its_words() -> None:
    cosines = torch.tensor([[0.1], [0.3], [0.2], [0.0]])
    values = class_values(cosines, [0, 1, 1, 2], 10.0)
    shares = [math.exp(10 * x) for x in (0.1, 0.3, 0.2, 0.0)]
    assert values[:, 0].tolist() == pytest.approx(
        [shares[0] / sum(shares), shares[1] / sum(shares), shares[3] / sum(shares)]
    )


def test_permuted_classes_are_permuted_values() -> None:
    cosines = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    order = [2, 0, 4, 1, 3]
    assert torch.allclose(class_values(cosines[order], range(5), 40), class_values(cosines, range(5), 40)[order])


def test_small_classes_go_to_the_next_best() -> None:
    values = torch.zeros(3, 2, 5)
    values[1], values[2, 0, 0] = 0.5, 0.6  # class 2 wins one pixel of ten
    assert labels_above(without_small_classes(values, 0.1), 0.0).unique().tolist() == [1]
    assert labels_above(without_small_classes(values, 0.09), 0.0)[0, 0] == 2
    values[0] = 1.0  # the background wins everywhere: no pixel of any class, which all go
    assert not labels_above(without_small_classes(values, 0.1), 0.0).any()


@pytest.mark.parametrize("has_background", [True, False])
def test_logits_choose_the_labels_of_the_values(has_background: bool) -> None:
    values = torch.rand(4, 6, 7, generator=torch.Generator().manual_seed(1))
    values[2, :3] = 0  # a class that was dropped
    threshold = 0.8 if has_background else 0.0
    logits = to_logits(values, threshold, has_background)
    assert logits.abs().max() <= 30000 and len(logits) == (3 if has_background else 4)
    scores = torch.cat([torch.zeros(1, 6, 7), logits]) if has_background else logits
    assert torch.equal(scores.argmax(dim=0), labels_above(values, threshold))


def test_pamr_by_loops() -> None:
    generator = torch.Generator().manual_seed(2)
    scores, image = torch.rand(1, 2, 6, 7, generator=generator), torch.rand(1, 3, 6, 7, generator=generator)
    dilations, offsets = (1, 3), [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    wanted = scores
    for _ in range(2):
        current, wanted = wanted, torch.zeros_like(scores)
        for row in range(6):
            for column in range(7):

                def at(maps: torch.Tensor, a: int, b: int, row: int = row, column: int = column) -> torch.Tensor:
                    return maps[0, :, min(max(row + a, 0), 5), min(max(column + b, 0), 6)]

                samples = torch.stack([at(image, d * a, d * b) for d in dilations for a, b in offsets])
                spread = samples.std(dim=0)
                around = [(d * a, d * b) for d in dilations for a, b in offsets if (a, b) != (0, 0)]
                apart = [-((at(image, *o) - at(image, 0, 0)).abs() / (1e-8 + 0.1 * spread)).mean() for o in around]
                for weight, offset in zip(torch.stack(apart).softmax(dim=0), around):
                    wanted[0, :, row, column] += weight * at(current, *offset)
    assert torch.allclose(pamr(scores, image, 2, dilations), wanted, atol=1e-5)
    flat = torch.full((1, 1, 5, 5), 0.25)
    assert torch.allclose(pamr(flat, torch.rand(1, 3, 5, 5)), flat)
