"""The affinity against loops in plain numpy, and its boxes against drawings and a flood fill."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.steps.affinity import box_mask, mean_attention, refine, transition_matrix


def attention(seed: int, count: int) -> np.ndarray:
    """(N, N): rows of a softmax without its first column, as dropping the class token leaves them."""
    logits = 2 * np.random.default_rng(seed).standard_normal((count, count + 1))
    weights = np.exp(logits)
    return (weights / weights.sum(axis=1, keepdims=True))[:, 1:]


def naive_transition(matrix: np.ndarray) -> np.ndarray:
    count, matrix = len(matrix), matrix.copy()
    for _ in range(3):
        for column in range(count):
            matrix[:, column] /= sum(matrix[row, column] for row in range(count))
        for row in range(count):
            matrix[row] /= sum(matrix[row, column] for column in range(count))
    half = np.array([[(matrix[i, j] + matrix[j, i]) / 2 for j in range(count)] for i in range(count)])
    return np.array([[sum(half[i, m] * half[m, j] for m in range(count)) for j in range(count)] for i in range(count)])


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_transition_is_the_naive_one(count: int) -> None:
    matrix = attention(count, count)
    assert np.allclose(transition_matrix(torch.from_numpy(matrix)), naive_transition(matrix), atol=1e-12)


def test_transition_of_a_batch_is_that_of_each() -> None:
    batch = np.stack([attention(seed, 6) for seed in range(3)])
    found = transition_matrix(torch.from_numpy(batch))
    assert np.allclose(found, [naive_transition(one) for one in batch], atol=1e-12)


def test_transition_is_symmetric_and_its_rows_sum_to_nearly_one() -> None:
    found = transition_matrix(torch.from_numpy(attention(0, 20))).numpy()
    assert np.allclose(found, found.T) and (found >= 0).all()
    assert np.allclose(found.sum(axis=1), 1, atol=0.02)
    assert not np.allclose(found.sum(axis=1), 1, atol=1e-9)  # rows are last, but symmetrised: not exactly


@pytest.mark.parametrize(
    ("matrix", "transition"),
    [
        ([[1, 0], [0, 1]], [[1, 0], [0, 1]]),
        ([[0, 3], [5, 0]], [[1, 0], [0, 1]]),  # a swap, squared
        ([[1, 1], [1, 1]], [[0.5, 0.5], [0.5, 0.5]]),
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]),
    ],
)
def test_transition_of_doubly_stochastic_matrices(matrix: list, transition: list) -> None:
    assert np.allclose(transition_matrix(torch.tensor(matrix, dtype=torch.float64)), transition)


@pytest.mark.parametrize(("blocks", "averaged"), [(1, [0]), (3, [0, 1, 2]), (8, range(8)), (12, range(4, 12))])
def test_mean_over_the_last_eight_blocks(blocks: int, averaged: Sequence[int]) -> None:
    every = [
        torch.from_numpy(np.stack([attention(10 * block + image, 3) for image in range(2)])) for block in range(blocks)
    ]
    assert np.allclose(mean_attention(every), sum(every[block].numpy() for block in averaged) / len(averaged))


# --- boxes -----------------------------------------------------------------------------------------


def picture(rows: str) -> np.ndarray:
    """`#` is 1, digits are tenths, all else 0."""
    tenths = {"#": 10, **{str(digit): digit for digit in range(10)}}
    return np.array([[tenths.get(mark, 0) / 10 for mark in row] for row in rows.split()], np.float32)


@pytest.mark.parametrize(
    ("cam", "mask"),
    [
        ("..... .##.. .#... .....", "..... .##.. .##.. ....."),  # the box, not the shape
        ("#.... ..... ..#.. .....", "#.... ..... ..#.. ....."),  # two boxes
        ("#.... .#... ..... .....", "##... ##... ..... ....."),  # corners touch: one component
        ("...## ...## ..... .....", "...#. ...#. ..... ....."),  # right border: last column lost
        ("..... ..... .#... .#...", "..... ..... .#... ....."),  # bottom border: last row lost
        ("..... ..... ..... ....#", "..... ..... ..... ....."),  # a corner pixel is lost altogether
        ("##### ##### ##### #####", "####. ####. ####. ....."),  # constant 1
        ("..... ..... ..... .....", "..... ..... ..... ....."),  # nothing stands out
        ("#.... ...5. ..... .....", "#.... ...#. ..... ....."),  # 0.5 is above 0.4 of the maximum
        ("#.... ...3. ..... .....", "#.... ..... ..... ....."),  # 0.3 is not
        (".###. .#.#. .###. .....", ".###. .###. .###. ....."),  # a ring: its hole is inside the box
        ("##### #...# #.#.# #####", "####. ####. ####. ....."),  # a pixel inside a ring
    ],
)
def test_boxes_as_drawn(cam: str, mask: str) -> None:
    assert np.array_equal(box_mask(picture(cam), 0.4), picture(mask) == 1)


@pytest.mark.parametrize(
    ("level", "threshold", "inside"),
    [
        (102 / 255, 0.4, False),
        (103 / 255, 0.4, True),
        (178 / 255, 0.7, False),
        (179 / 255, 0.7, True),
        (0.003, 0.0, False),
    ],
)
def test_threshold_is_of_whole_levels_and_exclusive(level: float, threshold: float, inside: bool) -> None:
    """int(0.4 * 255) = 102 and int(0.7 * 255) = 178; 0.003 is level 0."""
    cam = np.zeros((3, 5), np.float32)
    cam[0, 0], cam[0, 2] = 1, np.float32(level + 1e-6)
    assert box_mask(cam, threshold)[0, 2] == inside


def naive_boxes(cam: np.ndarray, threshold: float) -> np.ndarray:
    """Flood fill over the eight neighbours, then half-open boxes clipped one short of the border."""
    levels = (cam * 255).astype(np.uint8).astype(int)
    left = {(y, x) for y, x in np.ndindex(cam.shape) if levels[y, x] > int(threshold * levels.max())}
    mask = np.zeros(cam.shape, bool)
    while left:
        component, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        ys, xs = zip(*component)
        bottom, right = min(max(ys) + 1, cam.shape[0] - 1), min(max(xs) + 1, cam.shape[1] - 1)
        mask[min(ys) : bottom, min(xs) : right] = True
    return mask


SIDES = st.integers(1, 9)
MAPS = st.tuples(SIDES, SIDES).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0, 0, 0, 0.25, 0.5, 0.75, 1]), fill=st.nothing())
)


@settings(max_examples=200, deadline=None)
@given(MAPS, st.sampled_from([0.0, 0.4, 0.7, 1.0]))
def test_boxes_of_random_maps_are_those_of_a_flood_fill(cam: np.ndarray, threshold: float) -> None:
    assert np.array_equal(box_mask(cam, threshold), naive_boxes(cam, threshold))


# --- refinement ------------------------------------------------------------------------------------


def test_refined_is_masked_transition_times_cam() -> None:
    transition = naive_transition(attention(4, 20))
    cams = np.random.default_rng(1).random((3, 4, 5))
    cams = (cams - cams.min(axis=(1, 2), keepdims=True)) ** 3
    cams /= cams.max(axis=(1, 2), keepdims=True)
    (found,) = refine(torch.from_numpy(transition)[None], [torch.from_numpy(cams)], 0.4)
    for cam, refined in zip(cams, found):
        mask = naive_boxes(cam.astype(np.float32), 0.4).reshape(1, 20)
        assert 0 < mask.sum() < 20
        spread = (transition * mask) @ cam.reshape(20, 1)
        spread = (spread - spread.min()).reshape(4, 5)
        assert np.allclose(refined, spread / (1e-7 + spread.max()), atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 2, 3)])
def test_no_classes_or_nothing_standing_out_give_zeros(shape: tuple[int, int, int]) -> None:
    (found,) = refine(
        torch.from_numpy(naive_transition(attention(0, 6)))[None], [torch.zeros(shape, dtype=torch.float64)], 0.4
    )
    assert found.shape == shape and not found.any()
