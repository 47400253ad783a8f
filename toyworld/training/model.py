"""The toy world's CLIP: the towers of clip/, drawn to be trained, and what training looks at in them.

Letters: B images, N patches, T captions, U tokens of the vocabulary in use, D width, E embedding.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip.transformer import BlockSizes, Transformer, VisionTransformer, VitSizes
from clip.vision import embed_patches, project_alone, run_block

HEAD_WIDTH = 64  # OpenAI's convention: loaders derive the number of heads from it
CONTEXT_LENGTH = 77
INITIAL_SCALE, LARGEST_SCALE = 14.3, 25.0  # a larger scale saturates the softmax that Grad-CAM differentiates
POSITION_STRENGTH = 0.5
LIKENESS = 0.6  # of queries and keys at the start; 1 would make a token look at itself alone


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


class VisionOutput(NamedTuple):
    """What the vision tower makes of B images: projected, unnormalised features and the attention of every block."""

    image: Tensor  # (B, E) class token
    patches: Tensor  # (B, N, E)
    values: list[Tensor]  # L times (B, N, E), every block's attention values alone: the branch Grad-CAM at ln_1 sees
    attention: list[Tensor]  # L times (B, N, N), mean over heads, patch to patch; empty unless asked for
    grid: tuple[int, int]  # rows and columns of the N patches


class FusedQuickGELU(nn.Module):
    """x * sigmoid(1.702 x), by way of the fused SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) / 1.702


def blocks_of(width: int, layers: int) -> BlockSizes:
    return BlockSizes(layers, width, width // HEAD_WIDTH, 4 * width)


def draw(transformer: Transformer) -> None:
    """Give blocks random start weights.

    Their parts get the order in which the committed weights were trained: the norm of all gradients is a sum in it.
    """
    for block in transformer.resblocks:
        for name in ("ln_1", "ln_2", "mlp"):
            block.add_module(name, block._modules.pop(name))
        block.mlp.gelu = FusedQuickGELU()
        weight = block.attn.in_proj_weight
        weight.data = torch.randn(weight.shape) * weight.shape[1] ** -0.5
        for layer in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
            nn.Linear.reset_parameters(layer)


@torch.no_grad()
def start_alike(transformer: Transformer) -> None:
    """Let queries start as the keys, so that a token first looks at its like.

    Trockman & Kolter, ICML 2023 ("Mimetic initialization"): trained transformers have such queries and keys.
    """
    for block in transformer.resblocks:
        width = block.attn.embed_dim
        block.attn.in_proj_weight[width : 2 * width] *= LIKENESS
        block.attn.in_proj_weight[:width] = block.attn.in_proj_weight[width : 2 * width]


def waves(grid: int, width: int) -> Tensor:
    """(grid * grid, width) sines and cosines of the row and of the column: neighbours start out as neighbours."""
    rows, columns = torch.meshgrid(torch.arange(grid).float(), torch.arange(grid).float(), indexing="ij")
    frequencies = math.pi / 2 / 100.0 ** (torch.arange(width // 4) / (width // 4))
    angles = [place.flatten()[:, None] * frequencies for place in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


class VisionTower(VisionTransformer):
    """CLIP's image tower, with random weights."""

    def __init__(self, sizes: Architecture) -> None:
        width, self.grid = sizes.width, sizes.resolution // sizes.patch
        with torch.random.fork_rng([]):
            super().__init__(
                VitSizes(blocks_of(width, sizes.layers), sizes.patch, self.grid, sizes.embedding), "quick_gelu"
            )
        self.conv1.reset_parameters()
        self.class_embedding.data = torch.randn(width) * width**-0.5
        class_position = torch.randn(1, width) * 0.02
        self.positional_embedding.data = torch.cat([class_position, POSITION_STRENGTH * waves(self.grid, width)])
        draw(self.transformer)
        start_alike(self.transformer)
        self.proj.data = torch.randn(width, sizes.embedding) * width**-0.5

    def forward(self, images: Tensor, maps: bool = False) -> VisionOutput:
        x, grid = embed_patches(self, images)
        attentions, values = [], []
        for block in self.transformer.resblocks:
            values.append(self.ln_post(project_alone(block, x[:, 1:], "value")) @ self.proj)
            x, attention = run_block(block, x, need_attention=maps)
            if attention is not None:
                attentions.append(attention[:, 1:, 1:])
        x = self.ln_post(x) @ self.proj
        return VisionOutput(x[:, 0], x[:, 1:], values, attentions, grid)


class ToyClip(nn.Module):
    """Both towers. The token embedding holds only the rows of the vocabulary in use; export puts them in place."""

    def __init__(self, sizes: Architecture, vocabulary: int) -> None:
        super().__init__()
        width = sizes.text_width
        self.visual = VisionTower(sizes)
        with torch.random.fork_rng([]):  # what modules draw by themselves is drawn again below
            self.transformer = Transformer(blocks_of(width, sizes.text_layers), "quick_gelu")
        draw(self.transformer)
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
        count = tokens.shape[1]
        mask = torch.full((count, count), float("-inf")).triu_(1)
        for block in self.transformer.resblocks:
            x, _ = run_block(block, x, attention_bias=mask)
        return F.normalize(self.ln_final(x)[torch.arange(len(x)), ends] @ self.text_projection, dim=-1)

    @torch.no_grad()
    def cap_scale(self) -> None:
        """Keep the learned scale where the softmax still has a slope."""
        self.logit_scale.clamp_(max=torch.tensor(LARGEST_SCALE).log().item())
