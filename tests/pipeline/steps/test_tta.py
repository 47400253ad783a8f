"""Augmented maps come back to where they belong."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.steps.tensors import min_max
from pipeline.steps.tta import MapPair, averaged, transforms

PATCH = 8


def brightness(images: Tensor) -> list[MapPair]:
    """A stand-in for CLIP: the mean of the first channel of every patch; the second for the refined map."""
    pooled = torch.nn.functional.avg_pool2d(images, PATCH)
    return [(image[0:1], image[1:2]) for image in pooled]


def ramps(height: int, width: int) -> Tensor:
    """(1, 3, H, W): channel 0 rises to the right, channel 1 downwards."""
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)])[None]


@pytest.mark.parametrize(
    ("scales", "flip", "count"), [([1.0], False, 1), ([1.0], True, 2), ([0.5], False, 2), ([0.5, 1.0, 1.5], True, 6)]
)
def test_number_of_variants(scales: list[float], flip: bool, count: int) -> None:
    assert len(transforms(scales, flip)) == count


def test_identity_alone_is_the_plain_map() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 40)
    for plain, found in zip(brightness(images), averaged(brightness, images, transforms([1.0], False), PATCH)):
        assert all(torch.allclose(a, min_max(b), atol=1e-6) for a, b in zip(found, plain))


def test_flip_is_the_mean_with_the_mirrored_image_mirrored_back() -> None:
    """A predictor that answers with the left half only, whatever it sees there."""
    torch.manual_seed(1)
    images = torch.rand(1, 3, 16, 48)
    left = torch.tensor([1.0, 1, 1, 0, 0, 0])

    def one_eyed(variant: Tensor) -> list[MapPair]:
        return [(cam * left, attn * left) for cam, attn in brightness(variant)]

    ((cam, _),) = averaged(one_eyed, images, transforms([1.0], True), PATCH)
    seen = brightness(images)[0][0].numpy()
    mean = (seen * left.numpy() + seen * left.numpy()[::-1]) / 2  # every column is seen once
    mean -= mean.min()
    assert np.allclose(cam, mean / mean.max(), atol=1e-5)


@pytest.mark.parametrize("scales", [[1.0], [2.0], [0.5, 1.5], [0.75]])
@pytest.mark.parametrize("flip", [False, True])
def test_ramps_stay_ramps(scales: list[float], flip: bool) -> None:
    """Width and height do not change places, nothing is mirrored, nothing moves."""
    ((cam, attn),) = averaged(brightness, ramps(32, 48), transforms(scales, flip), PATCH)
    assert cam.shape == attn.shape == (1, 4, 6)
    assert np.allclose(cam[0], np.tile(np.arange(6) / 5, (4, 1)), atol=0.06)
    assert np.allclose(attn[0], np.tile(np.arange(4)[:, None] / 3, (1, 6)), atol=0.06)


@pytest.mark.parametrize("scales", [[1.0], [2.0], [0.5], [1.5, 0.75]])
@pytest.mark.parametrize("place", [(0, 0), (1, 4), (3, 2), (3, 5)])
def test_a_bright_patch_stays_in_its_place(scales: list[float], place: tuple[int, int]) -> None:
    images = torch.zeros(1, 3, 32, 48)
    y, x = place
    images[:, :, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] = 1
    ((cam, attn),) = averaged(brightness, images, transforms(scales, True), PATCH)
    for found in (cam, attn):
        assert np.unravel_index(int(found.argmax()), (4, 6)) == place
        assert found.max() == pytest.approx(1, abs=1e-5) and found.min() == 0


def test_images_without_classes_and_with_several() -> None:
    images = torch.rand(2, 3, 16, 24)

    def uneven(variant: Tensor) -> list[MapPair]:
        (first, _), (second, _) = brightness(variant)
        return [(first[:0], first[:0]), (torch.cat([second, 1 - second, second]),) * 2]

    found = averaged(uneven, images, transforms([1.0, 0.5], True), PATCH)
    assert [tuple(cam.shape) for cam, _ in found] == [(0, 2, 3), (3, 2, 3)]
    assert torch.allclose(found[1][0][0], found[1][0][2])


def test_variants_are_whole_patches() -> None:
    seen = []

    def watched(variant: Tensor) -> list[MapPair]:
        seen.append(tuple(variant.shape[-2:]))
        return brightness(variant)

    averaged(watched, torch.rand(1, 3, 32, 48), transforms([0.1, 0.6, 1.3], False), PATCH)
    assert seen == [(32, 48), (8, 8), (16, 32), (40, 64)]


@pytest.mark.parametrize("scale", [0.05, 0.001])
def test_a_scale_that_leaves_no_pixel_still_leaves_one_patch(scale: float) -> None:
    """A single small image must not end a run over thousands."""
    ((cam, attn),) = averaged(brightness, ramps(16, 24), transforms([scale], False), PATCH)
    assert cam.shape == attn.shape == (1, 2, 3) and torch.isfinite(cam).all()
