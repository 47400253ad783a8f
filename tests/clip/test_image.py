"""Image preparation against PIL and numpy."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clip.image import NORMALISATIONS, Preparation, framed, patch_grid, prepare_image, scale_to_grid
from tests.support import photo

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [((16, 16), 16, (1, 1)), ((17, 16), 16, (2, 1)), ((1, 33), 16, (1, 3)), ((480, 318), 16, (30, 20))],
)
def test_patch_grid_rounds_up(size: tuple[int, int], patch: int, grid: tuple[int, int]) -> None:
    assert patch_grid(size, patch) == grid


@pytest.mark.parametrize(("size", "resized"), [((30, 21), (32, 24)), ((8, 40), (8, 40)), ((1, 1), (8, 8))])
def test_prepared_as_pil_resizes_and_clip_normalises(size: tuple[int, int], resized: tuple[int, int]) -> None:
    image = Image.fromarray(photo(size, 3))
    expected = np.asarray(image.resize((resized[1], resized[0]), Image.Resampling.BICUBIC)) / 255
    expected = ((expected - MEAN) / STD).transpose(2, 0, 1)
    tensor = prepare_image(image, 8)
    assert tensor.dtype == torch.float32
    assert np.allclose(tensor.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(30, 21), (32, 24), (1, 1), (257, 140)])
@pytest.mark.parametrize("normalisation", ["clip", "imagenet"])
def test_prepared_to_the_bit_as_torchvision_does(size: tuple[int, int], normalisation: str) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as TF

    image = Image.fromarray(photo(size, 4))
    how = Preparation(normalisation=normalisation)
    sides = [8 * cells for cells in patch_grid(size, 8)]
    expected = TF.to_tensor(TF.resize(image, sides, InterpolationMode.BICUBIC))
    expected = TF.normalize(expected, *(list(each) for each in NORMALISATIONS[normalisation]))
    assert torch.equal(prepare_image(image, 8, preparation=how), expected)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((16, 24), (16, 24)), ((17, 21), (16, 24)), ((19, 20), (16, 16)), ((21, 3), (24, 8)), ((1, 1), (8, 8))],
)
def test_scaled_to_the_nearest_whole_patches(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    images = torch.full((1, 3, *size), 0.25)
    images[:, 1] = -1
    found = scale_to_grid(images, 8)
    assert found.shape == (1, 3, *scaled)
    assert torch.allclose(found[:, [0, 2]], torch.tensor(0.25)) and torch.allclose(found[:, 1], torch.tensor(-1.0))


@pytest.mark.parametrize(
    ("size", "max_side", "grid"),
    [
        ((480, 640), 1024, (30, 40)),
        ((2048, 1024), 1024, (64, 32)),
        ((3024, 4032), 1024, (48, 64)),
        ((1, 5000), 64, (1, 4)),
    ],
)
def test_large_images_count_as_shrunk(size: tuple[int, int], max_side: int, grid: tuple[int, int]) -> None:
    assert patch_grid(size, 16, max_side) == grid
    height, width = size
    if height * width < 3_000_000:
        tensor = prepare_image(Image.new("RGB", (width, height)), 16, max_side)
        assert tensor.shape == (3, grid[0] * 16, grid[1] * 16)


@pytest.mark.parametrize(
    ("size", "frame", "scaled"),
    [
        ((375, 500), (2048, 512), (512, 683)),  # as published
        ((375, 500), (520, 520), (390, 520)),
        ((375, 500), (2048, 224), (224, 299)),
        ((500, 375), (2048, 512), (683, 512)),
        ((100, 3000), (2048, 512), (68, 2048)),
        ((1024, 2048), (1024, 512), (512, 1024)),
        ((1, 5000), (2048, 512), (1, 2048)),
    ],
)
def test_images_are_scaled_until_they_just_fit(
    size: tuple[int, int], frame: tuple[int, int], scaled: tuple[int, int]
) -> None:
    assert framed(size, frame) == scaled
    how = Preparation("pad", frame)
    assert patch_grid(size, 16, preparation=how) == tuple(-(-side // 16) for side in scaled)
    assert max(patch_grid(size, 16, 256, how)) <= 16


IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def test_padded_below_and_to_the_right_after_normalisation() -> None:
    image = Image.fromarray(photo((30, 21), 3))
    found = prepare_image(image, 8, preparation=Preparation("pad", (60, 42), "imagenet")).numpy()
    assert found.shape == (3, 64, 48)
    pixels = np.asarray(image.resize((42, 60), Image.Resampling.BICUBIC)).astype(float)
    assert np.allclose(found[:, :60, :42], ((pixels - IMAGENET[0]) / IMAGENET[1]).transpose(2, 0, 1), atol=1e-5)
    assert (found[:, 60:] == 0).all() and (found[:, :, 42:] == 0).all()


def test_squared_whatever_the_aspect() -> None:
    image = Image.fromarray(photo((30, 21), 3))
    found = prepare_image(image, 8, preparation=Preparation("square", (40,))).numpy()
    pixels = np.asarray(image.resize((40, 40), Image.Resampling.BICUBIC)) / 255
    assert np.allclose(found, ((pixels - MEAN) / STD).transpose(2, 0, 1), atol=1e-5)


def test_exact_is_opencv_s_resize_without_whole_patches() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    exact = Preparation("exact", (2048, 33))
    assert patch_grid((75, 100), 16, None, exact) == (33, 44)
    wanted = cv2.resize(photo, (44, 33), interpolation=cv2.INTER_LINEAR)
    found = prepare_image(Image.fromarray(photo), 16, None, exact)
    assert np.allclose(found.permute(1, 2, 0), (wanted / 255 - MEAN) / STD, atol=1e-6)
