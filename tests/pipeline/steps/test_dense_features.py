"""MaskCLIP's formulas against naive loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip.load import Clip
from clip.resnet import resnet_trunk
from clip.vision import vision_forward
from pipeline.steps import dense_features
from tests.tiny_resnet import tiny_resnet_clip

SCALE = torch.tensor(100.0)


@pytest.fixture(scope="module")
def resnet() -> Clip:
    return tiny_resnet_clip()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def softmax(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def norm(token: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    scaled = (token - token.mean()) / np.sqrt(token.var() + layer.eps)
    return scaled * layer.weight.numpy() + layer.bias.numpy()


def affine(token: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    return layer.weight.numpy() @ token + layer.bias.numpy()


# --- features -----------------------------------------------------------------------------------


def alone(block: torch.nn.Module, token: np.ndarray, third: int) -> np.ndarray:
    """out_proj(W ln_1(x) + b) with the given third of in_proj; in double precision."""
    own = slice(64 * third, 64 * third + 64)
    inner = block.attn.in_proj_weight.numpy()[own] @ norm(token, block.ln_1) + block.attn.in_proj_bias.numpy()[own]
    return affine(inner, block.attn.out_proj)


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-1.702 * x))


def test_official_features_token_by_token(tiny_clip: Clip) -> None:
    visual, block = tiny_clip.visual, tiny_clip.visual.transformer.resblocks[-1]
    tokens = torch.randn(2, 5, 64)
    features, keys = dense_features.identity_features(visual, tokens)
    assert features.shape == (2, 4, 32) and keys.shape == (2, 4, 64)
    for image in range(2):
        for patch in range(4):
            x = tokens[image, patch + 1].double().numpy()  # the class token is left out
            v = x + alone(block, x, 2)
            v = v + affine(quick_gelu(affine(norm(v, block.ln_2), block.mlp.c_fc)), block.mlp.c_proj)
            wanted = unit(norm(v, visual.ln_post) @ visual.proj.numpy())
            assert np.allclose(features[image, patch], wanted, atol=1e-5)
            assert np.allclose(keys[image, patch], alone(block, x, 1), atol=1e-5)


def test_packages_features_token_by_token(tiny_clip: Clip) -> None:
    visual, block = tiny_clip.visual, tiny_clip.visual.transformer.resblocks[-1]
    torch.manual_seed(2)
    run = vision_forward(visual, torch.randn(2, 3, 16, 24))
    features = dense_features.value_features(visual, run.last_input, run.last_output)
    assert features.shape == (2, 6, 32)
    for image in range(2):
        for patch in range(6):
            x, y = (t[image, patch + 1].double().numpy() for t in (run.last_input, run.last_output))
            wanted = (alone(block, x, 2) + y) @ visual.proj.numpy()
            assert np.allclose(features[image, patch], wanted, atol=1e-4)


@torch.no_grad()
def test_official_resnet_is_two_convolutions_of_one_pixel(resnet: Clip) -> None:
    visual, pool = resnet.visual, resnet.visual.attnpool
    cells, grid = resnet_trunk(visual, torch.randn(2, 3, 64, 96))
    features, keys = dense_features.identity_features_resnet(visual, cells)
    planes = cells.transpose(1, 2).unflatten(2, grid)  # (B, C, h, w)
    for layer in (pool.v_proj, pool.c_proj):
        planes = F.conv2d(planes, layer.weight[:, :, None, None], layer.bias)
    assert torch.allclose(features, F.normalize(planes, dim=1).flatten(2).transpose(1, 2), atol=1e-5)
    assert torch.allclose(keys[1, 3], pool.k_proj.weight @ cells[1, 3] + pool.k_proj.bias, atol=1e-4)


@torch.no_grad()
def test_packages_resnet_adds_half_of_the_pooling(resnet: Clip) -> None:
    """On the native grid, where torch's own attention gives the pooling of every token."""
    visual, pool = resnet.visual, resnet.visual.attnpool
    cells, grid = resnet_trunk(visual, torch.randn(1, 3, 64, 64))
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + pool.positional_embedding
    lines = tokens.transpose(0, 1)  # (T, B, C), as torch wants it
    pooled, _ = F.multi_head_attention_forward(
        lines, lines, lines, 512, pool.num_heads, None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
        pool.c_proj.weight, pool.c_proj.bias, training=False, need_weights=False, use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
    )  # fmt: skip
    values = torch.stack([pool.c_proj(pool.v_proj(token)) for token in tokens[0]])
    wanted = values[1:] + pooled[1:, 0] / 2
    assert torch.allclose(dense_features.value_features_resnet(visual, cells, grid)[0], wanted, atol=1e-4)


# --- scores -------------------------------------------------------------------------------------


def cosines(patches: int = 6, classes: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.02 * torch.randn(patches, classes, generator=generator)


def probabilities(scores: torch.Tensor) -> np.ndarray:
    return np.stack([softmax(100 * row) for row in scores.double().numpy()])


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9, 0.999])
def test_denoising_rules_out_classes_that_are_nowhere_probable(threshold: float) -> None:
    scores = cosines()
    found, highest = dense_features.denoise(scores, SCALE, threshold), probabilities(scores).max(axis=0)
    for index in range(4):
        wanted = scores[:, index] if highest[index] >= threshold else torch.full((6,), -100.0)
        assert torch.equal(found[:, index], wanted)


def test_denoising_keeps_or_rules_out_as_the_table_says() -> None:
    """Two positions, three classes: the first is best in one, the second in the other, the third nowhere."""
    scores = torch.tensor([[0.30, 0.20, 0.25], [0.20, 0.30, 0.25]])
    assert (dense_features.denoise(scores, SCALE, 0.5) == -100).any(dim=0).tolist() == [False, False, True]
    assert (dense_features.denoise(scores, SCALE, 0.001) == -100).any(dim=0).tolist() == [False, False, False]
    assert (dense_features.denoise(scores, SCALE, 0.999) == -100).all()  # as published, also every one


@pytest.mark.parametrize("which", ["position", "channel"])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_smoothing_gathers_from_similar_keys(which: str, threshold: float) -> None:
    scores, keys = cosines(seed=3), torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    probable, exact = probabilities(scores), keys.double().numpy()
    if which == "channel":
        similar = np.stack([unit(key) for key in exact])
    else:
        similar = np.stack([unit(channel) for channel in exact.T]).T
    wanted = probable.copy()
    for i in range(6):
        if probable[i].max() < threshold:
            wanted[i] = sum((similar[i] @ similar[j]) * probable[j] for j in range(6))
    found = dense_features.smooth(scores, keys, SCALE, threshold, which)
    assert np.allclose(found, wanted, atol=1e-5)
    assert not np.allclose(found, probable, atol=1e-2)


def test_a_distribution_is_what_is_positive_over_its_sum() -> None:
    otherwise = torch.tensor([[0.1, 0.1, 0.8], [0.2, 0.3, 0.5]])
    found = dense_features.to_distribution(torch.tensor([[2.0, 6.0, -1.0], [-1.0, -2.0, 0.0]]), otherwise)
    assert torch.allclose(found, torch.tensor([[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]]))


@pytest.mark.parametrize(("count", "background"), [(3, 2), (1, 4), (4, 0), (0, 3)])
def test_relative_logits_stand_for_the_softmax_over_all_prompts(count: int, background: int) -> None:
    logits = 100 * cosines(classes=count + background)
    relative = dense_features.against_background(logits, count).numpy()
    assert relative.shape == (6, count)
    for row, own in zip(logits.double().numpy(), relative):
        wanted = softmax(row)[:count]
        found = softmax(np.concatenate([[0.0], own]))[1:] if background else softmax(own)
        assert np.allclose(found, wanted, atol=1e-5)


def test_relative_logits_fit_into_half_precision() -> None:
    logits = torch.tensor([[1e6, -1e6, 0.0]])
    for count in (2, 3):
        assert dense_features.against_background(logits, count).half().isfinite().all()


def test_spreading_averages_over_the_affinitys_neighbours() -> None:
    transition, maps = torch.rand(6, 6), torch.randn(2, 2, 3)
    found = dense_features.spread(transition, maps)
    for own, smoothed in zip(maps, found):
        flat = own.flatten()
        for i in range(6):
            wanted = sum(float(transition[i, j] * flat[j]) for j in range(6)) / float(transition[i].sum())
            assert abs(float(smoothed.flatten()[i]) - wanted) < 1e-5
