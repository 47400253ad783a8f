"""CLIP's ResNets, step by step, over open_clip's modules as they are.

Shape letters: B images, h w cells of the last feature map, N = h*w, C its channels, E embedding.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from open_clip.model import CLIPVisionCfg
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor

from clip.vision import resize_positions

STRIDE = 32  # pixels a cell of the last feature map
STAGES = ("layer1", "layer2", "layer3", "layer4")


def is_resnet(visual: torch.nn.Module) -> bool:
    """Whether a CLIP's image tower is a ResNet."""
    return isinstance(visual, ModifiedResNet)


@torch.no_grad()
def resnet_trunk(visual: ModifiedResNet, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Everything before the attention pooling: images (B, 3, h*32, w*32) to cells (B, N, C), and (h, w)."""
    cells = visual.stem(images)
    for stage in STAGES:
        cells = getattr(visual, stage)(cells)
    return cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1])


def pool_input(pool: AttentionPool2d, cells: Tensor, grid: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Cells (B, N, C) to the pooling's tokens (B, 1+N, C): their mean first, positions resized to the grid added."""
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
    return tokens + resize_positions(pool.positional_embedding, grid, mode)


def pool_every_token(pool: AttentionPool2d, tokens: Tensor) -> Tensor:
    """The attention pooling with all tokens as queries: (B, T, C) to (B, T, E); CLIP keeps the first alone."""
    query, key, value = (
        part.view(*tokens.shape[:2], pool.num_heads, -1).transpose(1, 2)  # (B, T, C) -> (B, heads, T, C/heads)
        for part in (pool.q_proj(tokens), pool.k_proj(tokens), pool.v_proj(tokens))
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    return pool.c_proj(mixed.transpose(1, 2).flatten(2))


def pool_alone(pool: AttentionPool2d, tokens: Tensor) -> Tensor:
    """The same where each token attends to itself only: c_proj(v_proj(x)), (B, T, C) to (B, T, E)."""
    return pool.c_proj(pool.v_proj(tokens))


def resnet_config(state: Mapping[str, Tensor]) -> CLIPVisionCfg:
    """The sizes of the ResNet whose weights a state dict holds. Raises KeyError for a weight that is missing."""
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    side = round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    layers = tuple(_count_blocks(state, stage) for stage in STAGES)
    return CLIPVisionCfg(layers=layers, width=width, image_size=side * STRIDE, head_width=64)


def holds_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether a CLIP's weights are those of a model with a ResNet."""
    return "visual.layer1.0.conv1.weight" in state or "visual.layer1.0.bn1.weight" in state


def _count_blocks(state: Mapping[str, Tensor], stage: str) -> int:
    return sum(key.startswith(f"visual.{stage}.") and key.endswith(".conv1.weight") for key in state)
