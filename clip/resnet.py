"""CLIP's ResNets: the modules, whose parameters have the names of OpenAI's weights, and what the methods look at.

Shape letters: B images, h w cells of the last feature map, N = h*w, C its channels, E embedding.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.vision import resize_positions

STRIDE = 32  # pixels a cell of the last feature map
STAGES = ("layer1", "layer2", "layer3", "layer4")
EXPANSION = 4  # a block's output has so many times the channels of its inner convolutions


@dataclass(frozen=True)
class ResNetSizes:
    """Sizes of an image tower that is a ResNet; its native grid has `side` x `side` cells.

    layers  blocks of the four stages
    width   channels of the first stage's inner convolutions
    heads   of the attention pooling
    """

    layers: tuple[int, ...]
    width: int
    heads: int
    side: int
    embedding: int


class Bottleneck(nn.Module):
    """A residual block. Where others have a stride, this one averages (an antialiased stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        outer = width * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outer, 1, bias=False), nn.BatchNorm2d(outer)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != outer:
            layers = OrderedDict[str, nn.Module]()
            layers["-1"] = nn.AvgPool2d(stride)
            layers["0"] = nn.Conv2d(channels, outer, 1, bias=False)
            layers["1"] = nn.BatchNorm2d(outer)
            self.downsample = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(x)).relu()
        inner = self.avgpool(self.bn2(self.conv2(inner)).relu())
        return (self.bn3(self.conv3(inner)) + self.downsample(x)).relu()


class AttentionPool2d(nn.Module):
    """The weights of the pooling; `pool_input` and `pool_every_token` compute it."""

    def __init__(self, side: int, width: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(side**2 + 1, width))
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embedding)


class ModifiedResNet(nn.Module):
    """The image tower: a stem of three convolutions, four stages, attention pooling.

    `image_size` is the side in pixels of the square images that it was trained with.
    """

    def __init__(self, sizes: ResNetSizes) -> None:
        super().__init__()
        width = sizes.width
        self.image_size = sizes.side * STRIDE
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        channels = width
        for index, (name, blocks) in enumerate(zip(STAGES, sizes.layers)):
            inner = width << index
            places = [(channels, 2 if index else 1), *[(inner * EXPANSION, 1)] * (blocks - 1)]
            self.add_module(name, nn.Sequential(*(Bottleneck(before, inner, stride) for before, stride in places)))
            channels = inner * EXPANSION
        self.attnpool = AttentionPool2d(sizes.side, channels, sizes.heads, sizes.embedding)


def is_resnet(visual: torch.nn.Module) -> bool:
    """Whether a CLIP's image tower is a ResNet."""
    return isinstance(visual, ModifiedResNet)


@torch.no_grad()
def resnet_trunk(visual: ModifiedResNet, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Everything before the attention pooling: images (B, 3, h*32, w*32) to cells (B, N, C), and (h, w)."""
    cells = visual.bn1(visual.conv1(images)).relu()
    cells = visual.bn2(visual.conv2(cells)).relu()
    cells = visual.avgpool(visual.bn3(visual.conv3(cells)).relu())  # (B, width, H/4, W/4)
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
