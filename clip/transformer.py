"""CLIP's two transformers as plain modules, whose parameters have the names of OpenAI's weights.

The modules only hold what a weight file holds; how images pass through them is in `clip/vision.py`.
Letters: P prompts, T tokens, D width, E embedding.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of a stack of blocks.

    inner        width of the MLP's hidden layer
    layer_scale  whether every branch is multiplied by a learned vector before it is added
    """

    layers: int
    width: int
    heads: int
    inner: int
    layer_scale: bool = False


@dataclass(frozen=True)
class VitSizes:
    """Sizes of an image tower that is a vision transformer; its native grid has `side` x `side` patches."""

    blocks: BlockSizes
    patch: int
    side: int
    embedding: int


@dataclass(frozen=True)
class TextSizes:
    """Sizes of a text tower; `context` is the number of tokens of a prompt, `vocabulary` that of all tokens."""

    blocks: BlockSizes
    context: int
    vocabulary: int
    embedding: int


class LayerNorm(nn.LayerNorm):
    """Layer norm whose output has the type of its input: autocast would make it float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), with which OpenAI's weights were trained."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return x * torch.sigmoid(1.702 * x)
        return torch.mul(x, 1.702).sigmoid_().mul_(x)  # the same numbers in one new tensor, not three


ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class LayerScale(nn.Module):
    """A learned factor for every channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """A residual attention block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, sizes: BlockSizes, activation: str) -> None:
        super().__init__()
        width = sizes.width
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, sizes.heads, batch_first=True)
        self.ls_1 = LayerScale(width) if sizes.layer_scale else nn.Identity()
        self.ln_2 = LayerNorm(width)
        layers = OrderedDict[str, nn.Module]()
        layers["c_fc"] = nn.Linear(width, sizes.inner)
        layers["gelu"] = ACTIVATIONS[activation]()
        layers["c_proj"] = nn.Linear(sizes.inner, width)
        self.mlp = nn.Sequential(layers)
        self.ls_2 = LayerScale(width) if sizes.layer_scale else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) to (B, T, D); `mask` (T, T) is added to the attention scores, rows are queries."""
        normed = self.ln_1(x)
        x = x + self.ls_1(self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """A stack of blocks, which the towers run one by one."""

    resblocks: Any  # of Block; type checkers take what is in a ModuleList for any module

    def __init__(self, sizes: BlockSizes, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(sizes, activation) for _ in range(sizes.layers))


class VisionTransformer(nn.Module):
    """The image tower. `image_size` is the side in pixels of the square images that it was trained with."""

    def __init__(self, sizes: VitSizes, activation: str) -> None:
        super().__init__()
        width = sizes.blocks.width
        self.image_size = sizes.side * sizes.patch
        self.conv1 = nn.Conv2d(3, width, sizes.patch, sizes.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(sizes.side**2 + 1, width))
        self.ln_pre, self.ln_post = LayerNorm(width), LayerNorm(width)
        self.transformer = Transformer(sizes.blocks, activation)
        self.proj = nn.Parameter(torch.empty(width, sizes.embedding))


class TextTransformer(nn.Module):
    """The text tower. Each token sees those before it; the prompt's embedding is that of its end token."""

    def __init__(self, sizes: TextSizes, activation: str) -> None:
        super().__init__()
        width = sizes.blocks.width
        # Not drawn: drawing on the meta device would import half of torch's compiler.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(sizes.vocabulary, width), freeze=False)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.context, width))
        self.transformer = Transformer(sizes.blocks, activation)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, sizes.embedding))

    def forward(self, tokens: Tensor, blocks: int | None = None) -> Tensor:
        """Token ids (P, T) to (P, E), not normalised; T is at most the context.

        blocks  only this many first blocks are run, then the layer norm and the projection; None: all
        """
        ends = tokens.argmax(dim=-1)  # the end token has the highest number
        return self.encode(self.token_embedding(tokens), ends, blocks)

    def encode(self, embeddings: Tensor, ends: Tensor, blocks: int | None = None) -> Tensor:
        """Embeddings of tokens (P, T, D), T at most the context, and where each prompt ends (P,), to (P, E)."""
        length = embeddings.shape[1]
        mask = torch.full((length, length), float("-inf"), device=embeddings.device).triu_(1)
        x = embeddings + self.positional_embedding[:length]
        for block in self.transformer.resblocks[:blocks]:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(x), device=x.device), ends] @ self.text_projection
