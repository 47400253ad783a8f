"""The vision transformer, step by step: no hooks, nothing patched.

Shape letters: B images, h w patches, N = h*w, D width, L blocks.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.transformer import Block, VisionTransformer

PARTS = ("query", "key", "value")  # of a block's in_proj, in their order


@dataclass(frozen=True)
class TrunkFeatures:
    """What comes out of all blocks but the last.

    last_input  (B, 1+N, D) tokens that enter the last block; the class token first
    attention   one (B, N, N) tensor a block, of the last blocks before the last, in order: softmax attention averaged
                over heads, patch to patch, rows not renormalised
    grid        (h, w)
    """

    last_input: Tensor
    attention: tuple[Tensor, ...]
    grid: tuple[int, int]


@dataclass(frozen=True)
class VisionFeatures(TrunkFeatures):
    """The same with the last block: its attention is in `attention` too, and `last_output` (B, 1+N, D) leaves it."""

    last_output: Tensor


@torch.no_grad()
def vision_forward(
    visual: VisionTransformer,
    images: Tensor,
    attention_blocks: int | None = None,
    attention_bias: Tensor | None = None,
    positions: str = "bilinear",
) -> VisionFeatures:
    """Run the transformer on images of any aspect, without gradients.

    images            (B, 3, h*p, w*p) float, normalised
    attention_blocks  attention is kept of this many last blocks (all, when None or more than there are)
    attention_bias    as in `run_block`, the same in every block
    positions         how positions are resized, as in `resize_positions`
    """
    trunk = vision_trunk(visual, images, attention_blocks, attention_bias, positions=positions)
    last, need = visual.transformer.resblocks[-1], attention_blocks != 0
    tokens, attention = run_block(last, trunk.last_input, need_attention=need, attention_bias=attention_bias)
    kept = trunk.attention if attention is None else (*trunk.attention, attention[:, 1:, 1:])
    return VisionFeatures(trunk.last_input, kept, trunk.grid, tokens)


@torch.no_grad()
def vision_trunk(
    visual: VisionTransformer,
    images: Tensor,
    attention_blocks: int | None = None,
    attention_bias: Tensor | None = None,
    run: "RunBlock | None" = None,
    positions: str = "bilinear",
) -> TrunkFeatures:
    """The same up to the last block, which is left to the caller; it counts among the `attention_blocks`.

    run        what runs a block in place of `run_block`, such as a compiled form of it
    positions  how positions are resized, as in `resize_positions`
    """
    blocks, run = visual.transformer.resblocks, run or run_block
    first_kept = 0 if attention_blocks is None else max(0, len(blocks) - attention_blocks)
    tokens, grid = embed_patches(visual, images, positions)
    kept = []
    for index, block in enumerate(blocks[:-1]):
        tokens, attention = run(block, tokens, need_attention=index >= first_kept, attention_bias=attention_bias)
        if attention is not None:
            kept.append(attention[:, 1:, 1:])
    return TrunkFeatures(tokens, tuple(kept), grid)


def embed_patches(
    visual: VisionTransformer, images: Tensor, positions: str = "bilinear"
) -> tuple[Tensor, tuple[int, int]]:
    """Images (B, 3, h*p, w*p) to the first block's tokens (B, 1+N, D), and (h, w)."""
    patches = visual.conv1(images)  # (B, D, h, w)
    grid = (patches.shape[-2], patches.shape[-1])
    patches = patches.flatten(2).transpose(1, 2)  # (B, N, D)
    class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([class_token, patches], dim=1)
    position = resize_positions(visual.positional_embedding, grid, positions)
    return visual.ln_pre(tokens + position.to(tokens.dtype)), grid


def resize_positions(learned: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """(1+g*g, D) to (1+N, D): the first position as it is, the g x g grid after it resized to h x w.

    mode  "bilinear" (CLIP-ES), "bicubic" (MaskCLIP), "bicubic-antialias" (GEM), or "bicubic-dino": as DINO's code does
          it, which SCLIP and its successors took over. A tenth of a cell too many shifts the samples, and a grid of
          another shape with as many cells gets the positions as they are
    """
    side = round((len(learned) - 1) ** 0.5)
    if grid == (side, side) or (mode == "bicubic-dino" and grid[0] * grid[1] == side**2):
        return learned
    square = learned[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    if mode == "bicubic-dino":
        factors = [(cells + 0.1) / side for cells in grid]
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
    else:
        mode, _, antialias = mode.partition("-")
        resized = F.interpolate(square, size=grid, mode=mode, align_corners=False, antialias=bool(antialias))
    return torch.cat([learned[:1], resized.flatten(2)[0].T])


def run_block(
    block: Block,
    tokens: Tensor,
    normed: Tensor | None = None,
    need_attention: bool = False,
    attention_bias: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One residual attention block.

    tokens          (B, T, D) the block's input, which the residual connection carries on
    normed          (B, T, D) `ln_1(tokens)`, where the caller has it already
    shift           (B, D) is added to `normed` of every token but the first. The gradient with respect to it is the sum
                    of those with respect to these tokens, and costs less than they would
    attention_bias  added to the attention scores before their softmax; (T, T) or (B, 1, T, T), rows are queries
    Returns the output (B, T, D) and, with `need_attention`, the head-averaged attention (B, T, T) without the bias.
    """
    normed = block.ln_1(tokens) if normed is None else normed
    mixed, attention = _self_attention(block.attn, normed, need_attention, attention_bias, shift)
    tokens = tokens + block.ls_1(mixed)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens))), attention


RunBlock = Callable[..., tuple[Tensor, Tensor | None]]  # with the parameters of run_block


def _self_attention(
    layer: torch.nn.MultiheadAttention,
    tokens: Tensor,
    need_attention: bool,
    bias: Tensor | None,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    batch, length, width = tokens.shape
    projected = F.linear(tokens, layer.in_proj_weight, layer.in_proj_bias)
    if shift is not None:
        shifted = projected[:, 1:] + F.linear(shift, layer.in_proj_weight)[:, None]
        projected = torch.cat([projected[:, :1], shifted], dim=1)
    # (B, T, 3D) -> three of (B, heads, T, D/heads)
    query, key, value = projected.view(batch, length, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    attention = None
    if need_attention:
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)  # (B, heads, T, T)
        weights = scores.softmax(dim=-1)
        attention = weights.mean(dim=1)
        mixed = (weights if bias is None else (scores + bias).softmax(dim=-1)) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return layer.out_proj(mixed.transpose(1, 2).reshape(batch, length, width)), attention


def project_alone(block: Block, tokens: Tensor, part: str) -> Tensor:
    """What a block's attention makes of each token when it sees no other: out_proj(W ln_1(x) + b), (B, T, D).

    part  one of PARTS; "value" is identity attention's output, the others are MaskCLIP's queries and keys, which go
          through the output projection as well
    """
    layer, index = block.attn, PARTS.index(part)
    weight, bias = layer.in_proj_weight.chunk(3)[index], layer.in_proj_bias.chunk(3)[index]
    return layer.out_proj(F.linear(block.ln_1(tokens), weight, bias))


def run_block_alone(block: Block, tokens: Tensor) -> Tensor:
    """The block (B, T, D) with identity attention: the limit of `run_block` as the bias off the diagonal falls."""
    tokens = tokens + block.ls_1(project_alone(block, tokens, "value"))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


@lru_cache(maxsize=1)  # of the model in use
def with_exact_gelu(visual: VisionTransformer, epsilon: float) -> VisionTransformer:
    """The same transformer, sharing its weights, with the exact GELU and another epsilon in every layer norm."""
    shared = {id(tensor): tensor for tensor in chain(visual.parameters(), visual.buffers())}
    twin = copy.deepcopy(visual, shared)
    for block in twin.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU()
    for module in twin.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = epsilon
    return twin


def with_matrices_in(visual: VisionTransformer, dtype: torch.dtype) -> VisionTransformer:
    """The same transformer, whose matrices in all blocks but the last are stored in another precision.

    What autocast makes of weights without gradient in every call is then made once; the numbers are the same.
    """
    return visual if dtype == torch.float32 else _converted(visual, dtype)


@lru_cache(maxsize=1)  # of the model in use, which is not moved or changed; nothing is kept for float32
def _converted(visual: VisionTransformer, dtype: torch.dtype) -> VisionTransformer:
    shared = {id(tensor): tensor for tensor in chain(visual.parameters(), visual.buffers())}
    twin = copy.deepcopy(visual, shared)
    for module in chain.from_iterable(block.modules() for block in twin.transformer.resblocks[:-1]):
        if isinstance(module, torch.nn.Linear | torch.nn.MultiheadAttention):
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return twin


def pooled_patch_features(visual: VisionTransformer, last_output: Tensor) -> Tensor:
    """(B, 1+N, D) -> (B, E) unit vectors: the mean of the projected patch tokens."""
    patches = visual.ln_post(last_output[:, 1:]).mean(dim=1)
    return F.normalize(patches @ visual.proj, dim=-1)


def class_token_features(visual: VisionTransformer, last_output: Tensor) -> Tensor:
    """(B, 1+N, D) -> (B, E): CLIP's own image feature, not normalised."""
    return visual.ln_post(last_output[:, 0]) @ visual.proj


def last_block_of_class_token(visual: VisionTransformer, last_input: Tensor) -> Tensor:
    """`class_token_features` of the last block's output, (B, 1+N, D) -> (B, E), where no other token is needed.

    Only the class token asks, and goes through the MLP.
    """
    block, asking = visual.transformer.resblocks[-1], last_input[:, :1]
    layer, normed = block.attn, block.ln_1(last_input)
    width = normed.shape[-1]
    weights, biases = layer.in_proj_weight.split((width, 2 * width)), layer.in_proj_bias.split((width, 2 * width))
    query = F.linear(normed[:, :1], weights[0], biases[0])
    keys_values = F.linear(normed, weights[1], biases[1])
    # (B, 1, D) -> (B, heads, 1, D/heads); (B, T, 2D) -> two of (B, heads, T, D/heads)
    query = query.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
    key, value = keys_values.unflatten(-1, (2, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    tokens = asking + block.ls_1(layer.out_proj(mixed))
    return class_token_features(visual, tokens + block.ls_2(block.mlp(block.ln_2(tokens))))
