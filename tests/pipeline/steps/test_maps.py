"""Normalising and resizing maps, against literals and a pixel-by-pixel bilinear loop."""

import numpy as np
import pytest
import torch

from pipeline.steps.maps import enlarge_labels, resize_maps, resized_rows, shrink_maps, strips
from pipeline.steps.tensors import min_max, to_numpy
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


@pytest.mark.parametrize(("grid", "size"), [((2, 3), (7, 5)), ((1, 1), (3, 2)), ((4, 4), (4, 4)), ((1, 4), (2, 9))])
def test_rows_of_resized_maps(grid: tuple[int, int], size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).random((2, *grid)).astype(np.float16)
    wanted = np.array([bilinear(one.astype(float), size) for one in maps])
    for rows in (slice(0, size[0]), slice(1, 2), slice(size[0] - 1, size[0])):
        found = resized_rows(maps, size, rows)
        assert found.dtype == np.float32 and np.allclose(found, wanted[:, rows], atol=1e-6)


def test_resizing_to_sides_beyond_16_bits() -> None:
    """OpenCV counts in 16 bits in places; here the last pixels are looked at."""
    source = np.random.default_rng(0).random((1, 2, 5), np.float32)
    for size in ((70_000, 7), (7, 70_000)):
        found = resize_maps(source, size)
        assert np.allclose(found[:, -2:], resized_rows(source, size, slice(size[0] - 2, size[0])), atol=1e-6)
        assert np.allclose(found[0, -1, -1], source[0, -1, -1]) and np.allclose(found[0, 0, 0], source[0, 0, 0])
    assert np.array_equal(enlarge_labels(np.array([[1, 2]]), (1, 70_000))[0, [0, 34_999, 35_000, -1]], [1, 1, 2, 2])


def test_shrunk_maps_are_means() -> None:
    maps = np.random.default_rng(0).random((3, 8, 12)).astype(np.float16)
    wanted = maps.astype(float).reshape(3, 4, 2, 3, 4).mean(axis=(2, 4))
    assert np.allclose(shrink_maps(maps, (4, 3)), wanted, atol=1e-3) and len(shrink_maps(maps[:0], (4, 3))) == 0


@pytest.mark.parametrize(
    ("size", "planes", "values", "rows"),
    [
        ((10, 4), 1, 40, [10]),
        ((10, 4), 2, 40, [5, 5]),
        ((10, 4), 1, 12, [3, 3, 3, 1]),
        ((3, 100), 7, 5, [1, 1, 1]),  # a row at least
        ((4, 4), 0, 8, [2, 2]),
    ],
)
def test_strips(size: tuple[int, int], planes: int, values: int, rows: list[int]) -> None:
    found = list(strips(size, planes, values))
    assert [strip.stop - strip.start for strip in found] == rows
    assert [row for strip in found for row in range(strip.start, strip.stop)] == list(range(size[0]))


@pytest.mark.parametrize(
    ("labels", "size", "wanted"),
    [
        ([[1, 2]], (2, 4), [[1, 1, 2, 2], [1, 1, 2, 2]]),
        ([[1, 2]], (1, 3), [[1, 2, 2]]),  # a centre on the border belongs to what begins there
        ([[1, 2, 3]], (1, 5), [[1, 1, 2, 3, 3]]),
        ([[7]], (2, 2), [[7, 7], [7, 7]]),
        ([[[0.5, 1]], [[2, 3]]], (1, 4), [[[0.5, 0.5, 1, 1]], [[2, 2, 3, 3]]]),
    ],
)
def test_labels_are_enlarged_by_nearest_neighbour(labels: list, size: tuple[int, int], wanted: list) -> None:
    assert np.array_equal(enlarge_labels(np.array(labels), size), wanted)
