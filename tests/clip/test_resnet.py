"""CLIP's ResNet, step by step, against naive loops; the whole of it against open_clip's, here and in test_towers.py."""

import cv2
import numpy as np
import pytest
import torch

from clip.load import Clip
from clip.resnet import is_resnet, pool_alone, pool_every_token, pool_input, resnet_trunk
from tests.support import clip_from
from tests.tiny_resnet import tiny_resnet_clip, tiny_resnet_model


@pytest.fixture(scope="module")
def resnet() -> Clip:
    return tiny_resnet_clip()


def test_which_towers_are_resnets(resnet: Clip, tiny_clip: Clip) -> None:
    assert is_resnet(resnet.visual) and not is_resnet(tiny_clip.visual)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 1)])
def test_a_cell_stands_for_32_pixels(grid: tuple[int, int], resnet: Clip) -> None:
    cells, found = resnet_trunk(resnet.visual, torch.randn(1, 3, 32 * grid[0], 32 * grid[1]))
    assert found == grid and cells.shape == (1, grid[0] * grid[1], 512)


@torch.no_grad()
def test_every_token_asks_every_other(resnet: Clip) -> None:
    pool, tokens = resnet.visual.attnpool, torch.randn(1, 4, 512)
    query, key, value = (layer(tokens)[0] for layer in (pool.q_proj, pool.k_proj, pool.v_proj))
    mixed = torch.zeros(4, 512)
    for head in range(8):
        own = slice(64 * head, 64 * head + 64)
        for i in range(4):
            weights = torch.tensor([float(query[i, own] @ key[j, own]) / 8 for j in range(4)]).softmax(0)
            mixed[i, own] = sum(weights[j] * value[j, own] for j in range(4))
    assert torch.allclose(pool_every_token(pool, tokens)[0], pool.c_proj(mixed), atol=1e-4)


@torch.no_grad()
def test_a_lone_token_asks_itself(resnet: Clip) -> None:
    """With one token the attention is the identity, so pooling it is projecting it alone."""
    pool, tokens = resnet.visual.attnpool, torch.randn(3, 1, 512)
    assert torch.allclose(pool_alone(pool, tokens), pool_every_token(pool, tokens), atol=1e-5)


@torch.no_grad()
def test_the_pools_tokens_are_the_mean_and_the_cells_in_their_places(resnet: Clip) -> None:
    pool, cells = resnet.visual.attnpool, torch.randn(2, 15, 512)
    added = pool_input(pool, cells, (3, 5)) - torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
    learned = pool.positional_embedding.numpy()
    assert np.allclose(added[:, 0], learned[0], atol=1e-5)
    for channel in range(0, 512, 61):
        plane = np.ascontiguousarray(learned[1:, channel].reshape(2, 2))
        wanted = cv2.resize(plane, (5, 3), interpolation=cv2.INTER_CUBIC).ravel()
        assert np.allclose(added[:, 1:, channel], wanted, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("side", "layers"), [(64, (1, 2, 1, 1)), (96, (2, 1, 3, 1))])
def test_sizes_are_read_from_the_weights(side: int, layers: tuple[int, ...]) -> None:
    theirs = tiny_resnet_model(side=side, layers=layers)
    clip, images = clip_from(theirs.state_dict()), torch.randn(2, 3, side, side)
    assert clip.visual.image_size == side and clip.patch_size == 32
    assert torch.allclose(clip.model.encode_image(images), theirs.encode_image(images), atol=1e-5)
