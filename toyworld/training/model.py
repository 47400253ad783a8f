"""A small CLIP whose parameters carry OpenAI's names, and which shows its attention.

Letters: B images, N patches, T captions, U tokens of the vocabulary in use, D width, E embedding.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64  # OpenAI's convention: loaders derive the number of heads from it
CONTEXT_LENGTH = 77
INITIAL_SCALE, LARGEST_SCALE = 14.3, 25.0  # a larger scale saturates the softmax that Grad-CAM differentiates
POSITION_STRENGTH = 0.5


@dataclass(frozen=True)
class Architecture:
    """The sizes of both towers."""

    resolution: int = 192  # of the native grid; other grids resize the positional embedding
    patch: int = 12
    width: int = 128
    layers: int = 5
    text_width: int = 64
    text_layers: int = 2
    embedding: int = 64


class Seen(NamedTuple):
    """What the vision tower makes of B images: projected, unnormalised features and the attention of every block."""

    image: Tensor  # (B, E) class token
    patches: Tensor  # (B, N, E)
    values: list[Tensor]  # L times (B, N, E), every block's attention values alone: the branch Grad-CAM at ln_1 sees
    attention: list[Tensor]  # L times (B, N, N), mean over heads, patch to patch, rows sum to 1; empty unless asked for


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), by way of the fused SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) / 1.702


class Attention(nn.Module):
    """Multi-head self-attention with nn.MultiheadAttention's parameter names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool = False, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        batch, count, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, count, 3, self.heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)  # each (B, heads, n, 64)
        if maps:
            attention = (q @ k.transpose(-1, -2) * HEAD_WIDTH**-0.5).softmax(-1)
            mixed = attention @ v
        else:
            attention = None
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, count, width)), attention

    def values(self, x: Tensor) -> Tensor:
        """Every token's own value after the output projection: attention that looks at itself only."""
        return self.out_proj(F.linear(x, self.in_proj_weight, self.in_proj_bias)[..., 2 * x.shape[-1] :])


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = Attention(width), nn.LayerNorm(width), nn.LayerNorm(width)
        layers = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, causal: bool = False, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        mixed, attention = self.attn(self.ln_1(x), causal, maps)
        x = x + mixed
        return x + self.mlp(self.ln_2(x)), attention


@torch.no_grad()
def make_plain_average(block: Block) -> None:
    """Make the block hand the average of all values to every token, and keep it so while it trains.

    Grad-CAM differentiates at the last block's ln_1. Through queries, keys and MLP its gradient carries more than what
    the values say, and in a small model that more is noise (mIoU of the same features 30 instead of 61). Zeros stay
    zeros: each factor's gradient is a product with the other.
    """
    width = block.attn.out_proj.in_features
    block.attn.in_proj_weight[: 2 * width] = 0
    for weight in block.mlp.parameters():
        weight.zero_()


class Transformer(nn.Module):
    """Only a holder of blocks: the towers below run them one by one."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))

    @property
    def last(self) -> Block:
        block = self.resblocks[-1]
        assert isinstance(block, Block)
        return block


def waves(grid: int, width: int) -> Tensor:
    """(grid * grid, width) sines and cosines of the row and of the column: neighbours start out as neighbours."""
    rows, columns = torch.meshgrid(torch.arange(grid).float(), torch.arange(grid).float(), indexing="ij")
    frequencies = math.pi / 2 / 100.0 ** (torch.arange(width // 4) / (width // 4))
    angles = [place.flatten()[:, None] * frequencies for place in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


class VisionTower(nn.Module):
    """The patch transformer."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        width, grid = sizes.width, sizes.resolution // sizes.patch
        self.grid = grid
        self.conv1 = nn.Conv2d(3, width, sizes.patch, sizes.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        own = torch.randn(1, width) * 0.02
        self.positional_embedding = nn.Parameter(torch.cat([own, POSITION_STRENGTH * waves(grid, width)]))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, sizes.layers)
        make_plain_average(self.transformer.last)
        self.proj = nn.Parameter(torch.randn(width, sizes.embedding) * width**-0.5)

    def positions(self, rows: int, columns: int) -> Tensor:
        """(rows * columns + 1, D): the class position, and the native grid resized bilinearly."""
        own, native = self.positional_embedding[:1], self.positional_embedding[1:]
        native = native.T.reshape(1, -1, self.grid, self.grid)
        resized = F.interpolate(native, (rows, columns), mode="bilinear", align_corners=False)
        return torch.cat([own, resized.flatten(2)[0].T])

    def forward(self, images: Tensor, maps: bool = False) -> Seen:
        x = self.conv1(images)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (B, N, D)
        own = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([own, x], 1) + self.positions(rows, columns))
        attentions, values = [], []
        for block in self.transformer.resblocks:
            assert isinstance(block, Block)
            values.append(self.ln_post(block.attn.values(block.ln_1(x[:, 1:]))) @ self.proj)
            x, attention = block(x, maps=maps)
            if attention is not None:
                between_patches = attention.mean(1)[:, 1:, 1:]
                attentions.append(between_patches / between_patches.sum(-1, keepdim=True))
        x = self.ln_post(x) @ self.proj
        return Seen(x[:, 0], x[:, 1:], values, attentions)


class ToyClip(nn.Module):
    """Both towers. The token embedding holds only the rows of the vocabulary in use; export puts them in place."""

    def __init__(self, sizes: Architecture, vocabulary: int) -> None:
        super().__init__()
        width = sizes.text_width
        self.visual = VisionTower(sizes)
        self.transformer = Transformer(width, sizes.text_layers)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT_LENGTH, width) * 0.02)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, sizes.embedding) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())
        nn.init.normal_(self.token_embedding.weight, std=0.3)

    def encode_text(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """(T, E) unit features of captions: tokens (T, n) int64 rows of the embedding, ends (T,) the last one's place.

        Without padding to 77: the mask is causal, so what follows the end never matters.
        """
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.transformer.resblocks:
            x, _ = block(x, causal=True)
        return F.normalize(self.ln_final(x)[torch.arange(len(x)), ends] @ self.text_projection, dim=-1)

    def scale(self) -> Tensor:
        """The factor of the cosine similarities."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def cap_scale(self) -> None:
        """Keep the learned scale where the softmax still has a slope."""
        self.logit_scale.clamp_(max=torch.tensor(LARGEST_SCALE).log().item())
