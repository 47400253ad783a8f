"""The explicit forward against open_clip's own, and its parts against naive ones."""

import copy
import gc
import weakref

import cv2
import numpy as np
import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer

from clip.load import Clip
from clip.vision import (
    class_token_features,
    embed_patches,
    pooled_patch_features,
    project_alone,
    resize_positions,
    run_block,
    run_block_alone,
    vision_forward,
    vision_trunk,
    with_exact_gelu,
    with_matrices_in,
)
from tests.support import PATCH, bilinear

GRIDS = [(4, 4), (3, 5), (6, 2), (1, 1), (7, 4)]


def images(grid: tuple[int, int], batch: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, grid[0] * PATCH, grid[1] * PATCH)


def image_features(visual: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return class_token_features(visual, vision_forward(visual, batch).last_output)


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_other_grids_are_open_clips_forward_with_a_resized_position(tiny_clip: Clip, grid: tuple[int, int]) -> None:
    """A second open_clip transformer of that image size, holding the same weights and naively resized positions."""
    other = VisionTransformer(
        (grid[0] * PATCH, grid[1] * PATCH), PATCH, 64, layers=3, heads=1, mlp_ratio=4.0, output_dim=32,
        act_layer=QuickGELU,
    ).eval()  # fmt: skip
    state = tiny_clip.visual.state_dict()
    learned = state["positional_embedding"].numpy()
    resized = bilinear(learned[1:].reshape(4, 4, -1), grid).reshape(grid[0] * grid[1], -1)
    state["positional_embedding"] = torch.from_numpy(np.concatenate([learned[:1], resized])).float()
    other.load_state_dict(state)
    batch = images(grid)
    assert vision_forward(tiny_clip.visual, batch).grid == grid
    assert torch.allclose(image_features(tiny_clip.visual, batch), other(batch), atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_are_resized_bilinearly_and_the_class_position_kept(tiny_clip: Clip, grid: tuple[int, int]) -> None:
    learned = tiny_clip.visual.positional_embedding
    found = resize_positions(learned, grid, "bilinear")
    assert torch.equal(found[0], learned[0])
    naive = bilinear(learned[1:].reshape(4, 4, -1).numpy(), grid)
    assert np.allclose(found[1:].reshape(*grid, -1).numpy(), naive, atol=1e-6)


@torch.no_grad()
def test_patches_go_row_by_row(tiny_clip: Clip) -> None:
    """Token 1 + y*w + x is the patch (y, x): its own convolution, position and layer norm."""
    visual, batch = tiny_clip.visual, images((3, 5), batch=1)
    tokens, _ = embed_patches(visual, batch)
    positions = resize_positions(visual.positional_embedding, (3, 5), "bilinear")
    for y, x in [(0, 0), (0, 4), (2, 1)]:
        patch = batch[0, :, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
        embedded = (visual.conv1.weight * patch).sum(dim=(1, 2, 3))
        token = 1 + y * 5 + x
        assert torch.allclose(tokens[0, token], visual.ln_pre(embedded + positions[token]), atol=1e-5)
    assert torch.allclose(tokens[0, 0], visual.ln_pre(visual.class_embedding + positions[0]), atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
@torch.no_grad()
def test_attention_is_multihead_attentions_own_average(heads: int) -> None:
    torch.manual_seed(heads)
    block = ResidualAttentionBlock(32, heads).eval()
    block.attn.in_proj_weight.add_(torch.randn_like(block.attn.in_proj_weight))
    block.attn.in_proj_bias.add_(torch.randn_like(block.attn.in_proj_bias))
    tokens = torch.randn(2, 7, 32)
    normed = block.ln_1(tokens)
    _, average = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=True)
    output, attention = run_block(block, tokens, need_attention=True)
    without, none = run_block(block, tokens)
    assert torch.allclose(attention, average, atol=1e-6)
    assert none is None
    assert torch.allclose(output, block(tokens), atol=1e-5)
    assert torch.allclose(without, block(tokens), atol=1e-5)


@torch.no_grad()
def test_a_given_norm_takes_the_place_of_ln_1(tiny_clip: Clip) -> None:
    block, tokens = tiny_clip.visual.transformer.resblocks[-1], torch.randn(1, 5, 64)
    normed = torch.randn(1, 5, 64)
    mixed = tokens + block.attn(normed, normed, normed, need_weights=False)[0]
    assert torch.allclose(run_block(block, tokens, normed)[0], mixed + block.mlp(block.ln_2(mixed)), atol=1e-5)


@pytest.mark.parametrize(("asked", "kept"), [(None, [0, 1, 2]), (1, [2]), (2, [1, 2]), (8, [0, 1, 2]), (0, [])])
@torch.no_grad()
def test_attention_of_the_last_blocks_without_the_class_token(
    tiny_clip: Clip, asked: int | None, kept: list[int]
) -> None:
    batch = images((3, 5))
    features = vision_forward(tiny_clip.visual, batch, attention_blocks=asked)
    tokens, _ = embed_patches(tiny_clip.visual, batch)
    expected = []
    for block in tiny_clip.visual.transformer.resblocks:
        entering, normed = tokens, block.ln_1(tokens)
        expected.append(block.attn(normed, normed, normed, need_weights=True)[1][:, 1:, 1:])
        tokens = block(tokens)
    assert len(features.attention) == len(kept)
    assert all(torch.allclose(a, expected[i], atol=1e-5) for a, i in zip(features.attention, kept))
    assert torch.allclose(features.last_input, entering, atol=1e-4)
    assert torch.allclose(features.last_output, tokens, atol=1e-4)


@torch.no_grad()
def test_pooled_features_are_the_mean_of_projected_patches(tiny_clip: Clip) -> None:
    tokens = torch.randn(2, 7, 64)
    for image, found in zip(tokens, pooled_patch_features(tiny_clip.visual, tokens)):
        projected = [tiny_clip.visual.ln_post(token) @ tiny_clip.visual.proj for token in image[1:]]
        mean = sum(projected) / len(projected)
        assert torch.allclose(found, mean / mean.norm(), atol=1e-6)


# --- tokens by themselves ---------------------------------------------------------------------------


@torch.no_grad()
def test_identity_attention_is_the_block_with_a_diagonal_attention_matrix(tiny_clip: Clip) -> None:
    tokens = torch.randn(2, 7, 64)
    closed = torch.full((7, 7), float("-inf")).fill_diagonal_(0)  # its softmax is the identity matrix
    for block in tiny_clip.visual.transformer.resblocks:
        wanted, _ = run_block(block, tokens, attention_bias=closed)
        assert torch.allclose(run_block_alone(block, tokens), wanted, atol=1e-5)
        assert not torch.allclose(run_block(block, tokens)[0], wanted, atol=1e-2)


@pytest.mark.parametrize(("part", "rows"), [("query", (0, 64)), ("key", (64, 128)), ("value", (128, 192))])
@torch.no_grad()
def test_a_token_projected_alone(part: str, rows: tuple[int, int], tiny_clip: Clip) -> None:
    block, tokens = tiny_clip.visual.transformer.resblocks[-1], torch.randn(2, 3, 64)
    weight, bias = block.attn.in_proj_weight[slice(*rows)], block.attn.in_proj_bias[slice(*rows)]
    found = project_alone(block, tokens, part)
    for image, projected in zip(tokens, found):
        for token, one in zip(image, projected):
            inner = weight @ block.ln_1(token) + bias
            assert torch.allclose(one, block.attn.out_proj.weight @ inner + block.attn.out_proj.bias, atol=1e-5)


@torch.no_grad()
def test_exact_gelu_is_a_transformer_built_with_it(tiny_clip: Clip) -> None:
    """open_clip's own transformer with nn.GELU and that epsilon, holding the same weights."""
    other = VisionTransformer(
        4 * PATCH, PATCH, 64, layers=3, heads=1, mlp_ratio=4.0, output_dim=32, act_layer=torch.nn.GELU,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-3),
    ).eval()  # fmt: skip
    other.load_state_dict(tiny_clip.visual.state_dict())
    visual, batch = tiny_clip.visual, images((4, 4))
    before, twin = image_features(visual, batch), with_exact_gelu(visual, 1e-3)
    assert torch.allclose(image_features(twin, batch), other(batch), atol=1e-5)
    assert torch.equal(image_features(visual, batch), before)
    assert not torch.allclose(image_features(twin, batch), before, atol=1e-3)
    assert all(a is b for a, b in zip(twin.parameters(), visual.parameters()))  # no memory for weights


@torch.no_grad()
def test_matrices_in_half_precision_are_what_autocast_makes_of_them(tiny_clip: Clip) -> None:
    visual, batch = tiny_clip.visual, images((4, 6))
    twin = with_matrices_in(visual, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = (vision_trunk(each, batch).last_input for each in (visual, twin))
    assert torch.equal(found, wanted) and not torch.equal(wanted, vision_trunk(visual, batch).last_input)
    blocks, others = twin.transformer.resblocks, visual.transformer.resblocks
    assert blocks[0].mlp.c_fc.weight.dtype == blocks[1].attn.in_proj_weight.dtype == torch.bfloat16
    assert all(weight.dtype == torch.float32 for weight in visual.parameters())
    assert all(a is b for a, b in zip(blocks[-1].parameters(), others[-1].parameters()))
    assert with_matrices_in(visual, torch.float32) is visual


def test_a_model_in_float32_goes_when_nobody_needs_it(tiny_clip: Clip) -> None:
    visual = copy.deepcopy(tiny_clip.visual)
    gone = weakref.ref(with_matrices_in(visual, torch.float32))
    del visual
    gc.collect()
    assert gone() is None


def test_bicubic_positions_are_opencvs(tiny_clip: Clip) -> None:
    """OpenCV's bicubic resizing has the same kernel, centres and borders; channel by channel."""
    learned = tiny_clip.visual.positional_embedding.numpy()
    found = resize_positions(tiny_clip.visual.positional_embedding, (6, 9), "bicubic").numpy()
    assert np.array_equal(found[0], learned[0])
    for channel in range(0, 64, 7):
        plane = np.ascontiguousarray(learned[1:, channel].reshape(4, 4))
        wanted = cv2.resize(plane, (9, 6), interpolation=cv2.INTER_CUBIC)
        assert np.allclose(found[1:, channel].reshape(6, 9), wanted, atol=1e-5)
