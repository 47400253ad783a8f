"""Normalising and resizing maps, against literals and a pixel-by-pixel bilinear loop."""

import numpy as np
import pytest
import torch

from pipeline.maps import min_max, resize_maps, to_numpy
from tests.support import bilinear


@pytest.mark.parametrize(
    ("values", "normalised"),
    [
        ([[[0, 1], [2, 4]]], [[[0, 0.25], [0.5, 1]]]),
        ([[[-3, -1]], [[10, 30]]], [[[0, 1]], [[0, 1]]]),  # each map by its own
        ([[[7, 7], [7, 7]]], [[[0, 0], [0, 0]]]),
        ([[[5]]], [[[0]]]),
        ([[[0, 1e-7]]], [[[0, 0.5]]]),  # the guard of the division shows
    ],
)
def test_min_max(values: list, normalised: list) -> None:
    assert np.allclose(min_max(torch.tensor(values, dtype=torch.float64)), normalised, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "size"), [((2, 3), (7, 5)), ((1, 1), (3, 2)), ((4, 4), (4, 4)), ((5, 6), (3, 4)), ((1, 4), (2, 9))]
)
def test_resized_bilinearly_by_pixel_centres(grid: tuple[int, int], size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).random((2, *grid), np.float32)
    resized = resize_maps(maps, size)
    assert resized.dtype == np.float32 and resized.shape == (2, *size)
    assert np.allclose(resized, [bilinear(one, size) for one in maps], atol=1e-5)


def test_half_precision_maps_and_none_at_all() -> None:
    assert np.allclose(resize_maps(np.full((1, 2, 2), 0.5, np.float16), (3, 3)), 0.5)
    assert resize_maps(np.zeros((0, 2, 2), np.float32), (3, 5)).shape == (0, 3, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_to_numpy_gives_float32_without_a_graph(dtype: torch.dtype) -> None:
    found = to_numpy(torch.tensor([0.5, 2.0], dtype=dtype, requires_grad=True) * 1)
    assert found.dtype == np.float32 and found.tolist() == [0.5, 2.0]
