"""Sizes as detectron2 computes them, padding, and the queries of a photo."""

import numpy as np
import pytest
import torch

from tests.zsseg.small import small_maskformer
from zsseg.inference import Queries, find_queries, labels_at, network_input, on_grid, resized, resized_size


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


def test_a_mirrored_view_is_that_of_the_mirrored_photo() -> None:
    network, image = small_maskformer(), np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    text = torch.nn.functional.normalize(torch.randn(5, 16), dim=-1)
    found, other = find_queries(network, image, text, mirrored=True), find_queries(network, image[:, ::-1].copy(), text)
    torch.testing.assert_close(found.logits, other.logits.flip(-1))
    torch.testing.assert_close(found.probabilities, other.probabilities)


def ramp(size: tuple[int, int], padded: tuple[int, int]) -> torch.Tensor:
    """2 x + 3 y at the places of mask logits, x and y being shares of the photo's sides."""
    y, x = ((torch.arange(whole // 4) + 0.5) * 4 / side for side, whole in zip(size, padded))
    return (3 * y[:, None] + 2 * x)[None]


def test_masks_of_another_size_come_to_the_places_of_the_first() -> None:
    """Between the middles of its own outer pixels, bilinear resampling keeps a ramp as it is."""
    first, second = ((45, 60), (64, 64)), ((72, 96), (96, 96))
    one, two = (Queries(ramp(*sizes), torch.ones(1, 1), *sizes) for sizes in (first, second))
    for found, like in ((two, one), (one, two)):
        moved = on_grid(found, like)
        assert moved.shape == like.logits.shape
        own = tuple(slice(1, side // 4 - 1) for side in like.size)  # inside of the photo
        torch.testing.assert_close(moved[0][own], like.logits[0][own], atol=1e-5, rtol=0)
    assert on_grid(one, one) is one.logits


def test_the_first_of_equal_classes_wins_at_the_photos_size() -> None:
    scores = torch.zeros(3, 2, 2)
    scores[2, 1, 1] = 1.0
    assert labels_at(scores, (8, 8)).tolist()[7] == [0, 0, 2, 2, 2, 2, 2, 2]
