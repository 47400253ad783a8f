"""Softmax Grad-CAM against finite differences of a naive forward, and its sum by loops."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from clip.transformer import VisionTransformer
from pipeline.steps.cam import cam_from_gradients, class_probabilities, softmax_gradcam
from tests.support import tiny_model

GRID = (2, 3)
LABELS: list[list[int]] = [[2, 0], [], [1]]


def unit_rows(seed: int, rows: int) -> Tensor:
    torch.manual_seed(seed)
    rows_of = torch.randn(rows, 32, dtype=torch.float64)
    return rows_of / rows_of.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def visual() -> VisionTransformer:
    return tiny_model(5, layers=1, width=128, text_layers=1).visual.double()


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(len(LABELS), 1 + GRID[0] * GRID[1], 128, dtype=torch.float64)


def naive_probabilities(
    visual: VisionTransformer, tokens: Tensor, normed: Tensor, present: Sequence[int], texts: tuple[Tensor, Tensor]
) -> Tensor:
    """(V, k) softmax probabilities for V versions of X = ln_1(tokens), with torch's own attention module."""
    block = visual.transformer.resblocks[-1]
    mixed = tokens + block.attn(normed, normed, normed, need_weights=False)[0]
    out = mixed + block.mlp(block.ln_2(mixed))
    pooled = (visual.ln_post(out[:, 1:]) @ visual.proj).mean(dim=1)
    pooled = pooled / pooled.norm(dim=1, keepdim=True)
    competing = torch.cat([texts[0][list(present)], texts[1]])
    exponentials = (9.0 * pooled @ competing.T).exp()
    return (exponentials / exponentials.sum(dim=1, keepdim=True))[:, : len(present)]


def numerical_gradients(
    visual: VisionTransformer, tokens: Tensor, present: Sequence[int], texts: tuple[Tensor, Tensor], step: float = 1e-4
) -> np.ndarray:
    """(k, 1+N, D): central differences of the probabilities for every number of X."""
    normed = visual.transformer.resblocks[-1].ln_1(tokens)
    changes = step * torch.eye(normed.numel(), dtype=torch.float64).view(-1, *normed.shape)
    up, down = (
        naive_probabilities(visual, tokens.expand_as(changes), normed + sign * changes, present, texts)
        for sign in (1, -1)
    )
    return ((up - down) / (2 * step)).T.reshape(len(present), *normed.shape).numpy()


def naive_cam(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(h, w): weights, weighted sum, relu and normalisation, number by number."""
    patches, width = activation.shape[0] - 1, activation.shape[1]
    weights = [sum(gradient[1 + n, d] for n in range(patches)) / patches for d in range(width)]
    cam = [max(0.0, sum(weights[d] * activation[1 + n, d] for d in range(width))) for n in range(patches)]
    for _ in range(2):
        low = min(cam)
        high = max(value - low for value in cam)
        cam = [(value - low) / (1e-7 + high) for value in cam]
    return np.array(cam).reshape(GRID)


@torch.no_grad()
def test_maps_are_those_of_numerical_gradients(visual: VisionTransformer, tokens: Tensor) -> None:
    texts = unit_rows(0, 4), unit_rows(1, 3)
    found, _ = softmax_gradcam(visual, tokens, GRID, LABELS, *texts, torch.tensor(9.0, dtype=torch.float64))
    assert [maps.shape for maps in found] == [(2, *GRID), (0, *GRID), (1, *GRID)]
    assert not any(maps.requires_grad for maps in found)
    for image, present, maps in zip(tokens, LABELS, found):
        activation = visual.transformer.resblocks[-1].ln_1(image).numpy()
        for gradient, cam in zip(numerical_gradients(visual, image, present, texts), maps) if present else ():
            assert np.allclose(cam, naive_cam(activation, gradient), atol=1e-5)
            assert cam.max() > 0.99  # not a map of zeros, which would agree with anything


def test_images_of_a_batch_do_not_mix(visual: VisionTransformer, tokens: Tensor) -> None:
    texts, scale = (unit_rows(0, 4), unit_rows(1, 3)), torch.tensor(9.0, dtype=torch.float64)
    labels = [[0, 1, 3], [], [2]]
    together, _ = softmax_gradcam(visual, tokens, GRID, labels, *texts, scale)
    for index, present in enumerate(labels):
        ((alone,), _) = softmax_gradcam(visual, tokens[index : index + 1], GRID, [present], *texts, scale)
        assert together[index].shape == (len(present), *GRID)
        assert torch.allclose(together[index], alone, atol=1e-9)


def test_order_of_labels_is_order_of_maps(visual: VisionTransformer, tokens: Tensor) -> None:
    texts, scale = (unit_rows(0, 4), unit_rows(1, 3)), torch.tensor(9.0, dtype=torch.float64)
    ((forward,), _) = softmax_gradcam(visual, tokens[:1], GRID, [[0, 2, 3]], *texts, scale)
    ((backward,), _) = softmax_gradcam(visual, tokens[:1], GRID, [[3, 2, 0]], *texts, scale)
    assert torch.allclose(forward, backward.flip(0), atol=1e-9)
    assert not torch.allclose(forward, backward, atol=1e-2)


def test_no_labels_at_all(visual: VisionTransformer, tokens: Tensor) -> None:
    found, _ = softmax_gradcam(visual, tokens, GRID, [[], [], []], unit_rows(0, 4), unit_rows(1, 3), torch.tensor(9.0))
    assert [maps.shape for maps in found] == [(0, *GRID)] * 3


@pytest.mark.parametrize("labels", [[[0]], [[1, 2], [2, 0]], [[2, 0, 1]]])
def test_softmax_runs_over_present_classes_and_background(labels: list[list[int]]) -> None:
    features, foreground, background = unit_rows(3, len(labels)), unit_rows(0, 3), unit_rows(1, 2)
    found = class_probabilities(features, torch.tensor(labels), foreground, background, torch.tensor(5.0))
    for row, feature, present in zip(found, features, labels):
        competing = [*(foreground[index] for index in present), *background]
        weights = [float(torch.exp(5 * feature @ text)) for text in competing]
        assert np.allclose(row, np.array(weights[: len(present)]) / sum(weights), atol=1e-9)


def test_the_last_blocks_attention_comes_along(visual: VisionTransformer, tokens: Tensor) -> None:
    texts = unit_rows(0, 4), unit_rows(1, 3)
    _, found = softmax_gradcam(visual, tokens, GRID, LABELS, *texts, torch.tensor(9.0, dtype=torch.float64))
    block = visual.transformer.resblocks[-1]
    with torch.no_grad():
        normed = block.ln_1(tokens)
        _, expected = block.attn(normed, normed, normed, need_weights=True)  # torch's own, averaged over heads
    assert torch.allclose(found, expected[:, 1:, 1:], atol=1e-9)


@pytest.mark.parametrize(
    ("activation", "gradient", "cam"),
    [
        ([[9, 9], [1, 0], [0, 1]], [2, 0], [1, 0]),  # the class token (first row) takes no part
        ([[0, 0], [1, 2], [3, 4]], [0.5, 0.5], [0, 1]),  # 1.5 and 3.5
        ([[0, 0], [1, 1], [2, 2]], [-1, 0], [0, 0]),  # nothing positive
        ([[0, 0], [-1, 0], [2, 0]], [1, 0], [0, 1]),  # relu before the minimum
        # 1e-8 is below the guard 1e-7: one normalisation gives 1/11, the second 1.
        ([[0, 0], [0, 0], [1, 0]], [1e-8, 0], [0, 1 / (1 + 1.1e-6)]),
    ],
)
def test_cam_of_given_gradients(activation: list, gradient: list, cam: list) -> None:
    found = cam_from_gradients(
        torch.tensor(activation, dtype=torch.float64), torch.tensor([gradient], dtype=torch.float64), (1, 2)
    )
    assert np.allclose(found, [[cam]], atol=2e-7)
