"""Sizes as detectron2 computes them, padding, and the queries of a photo."""

import numpy as np
import pytest
import torch

from tests.zsseg.small import small_maskformer
from zsseg.inference import find_queries, labels_at, network_input, resized, resized_size


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [((375, 500), 512, 2048, (512, 683)), ((500, 375), 640, 2560, (853, 640)), ((100, 1000), 512, 2048, (205, 2048)),
     ((1024, 2048), 1024, 2048, (1024, 2048)), ((2, 900), 512, 64, (1, 64))],
)  # fmt: skip
def test_sizes(size: tuple[int, int], short: int, longest: int, expected: tuple[int, int]) -> None:
    assert resized_size(size, short, longest) == expected
    assert resized(np.zeros((*size, 3), np.uint8), short, longest).shape[:2] == expected


def test_images_are_normalised_and_padded_with_zeros() -> None:
    images = [np.full((40, 33, 3), 200, np.uint8), np.zeros((20, 64, 3), np.uint8)]
    batch = network_input(images)
    assert batch.shape == (2, 3, 64, 64)
    expected = torch.tensor([(200 - 123.675) / 58.395, (200 - 116.28) / 57.12, (200 - 103.53) / 57.375])
    torch.testing.assert_close(batch[0, :, :40, :33], expected[:, None, None].expand(3, 40, 33))
    assert not batch[0, :, 40:].any() and not batch[0, :, :, 33:].any() and not batch[1, :, 20:].any()


def test_queries_have_the_size_of_the_photo_and_no_object_is_dropped() -> None:
    network, image = small_maskformer(), np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    text = torch.nn.functional.normalize(torch.randn(5, 16), dim=-1)  # other classes than in the training
    found = find_queries(network, image, text)
    masks = found.masks()
    assert masks.shape == (6, 50, 70) and masks.min() >= 0 and masks.max() <= 1
    with torch.no_grad():
        logits = network(network_input([image]), text).class_logits[-1, 0]
    exponents = (logits - logits.max(dim=1, keepdim=True).values).exp()
    torch.testing.assert_close(found.probabilities, exponents[:, :5] / exponents.sum(dim=1, keepdim=True))


def test_the_first_of_equal_classes_wins_at_the_photos_size() -> None:
    scores = torch.zeros(3, 2, 2)
    scores[2, 1, 1] = 1.0
    assert labels_at(scores, (8, 8)).tolist()[7] == [0, 0, 2, 2, 2, 2, 2, 2]
