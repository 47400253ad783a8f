"""Features of patches by other attentions in the last block, without training (docs/methods.md, section 8).

Shape letters: B images or windows, N = h*w patches, T = 1+N tokens with the class token first, H heads, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.transformer import Block, VisionTransformer
from clip.vision import RunBlock, embed_patches, run_block, with_matrices_in
from pipeline.steps.tensors import computing_in

DEPTH = 12  # blocks of ViT-B, whose numbers the papers give


@dataclass(frozen=True)
class Tokens:
    """What leaves every block but the last: L-1 tensors (B, T, D), and the grid (h, w).

    before     (B, T, D) what enters the first block
    attention  one (B, N, N) tensor a block, averaged over heads, of the blocks of which it was asked for
    """

    after: tuple[Tensor, ...]
    before: Tensor
    grid: tuple[int, int]
    attention: tuple[Tensor, ...] = ()

    def block(self, number: int) -> Tensor:
        """The output of a block, counted from 1; 0: what enters the first."""
        return self.after[number - 1] if number else self.before

    @property
    def last_input(self) -> Tensor:
        return self.block(len(self.after))


@torch.no_grad()
def run_blocks(
    visual: VisionTransformer,
    images: Tensor,
    positions: str,
    attention_blocks: int = 0,
    precision: str = "float32",
    run: RunBlock = run_block,
) -> Tokens:
    """Run all blocks but the last on images (B, 3, H, W); what does not fill a patch on the right and below is dropped.

    positions         as in clip.vision.resize_positions
    attention_blocks  attention is kept of this many last blocks, the last of all among them, which is not run here
    precision         "float32", "bfloat16" or "float16", by autocast; what is returned is float32
    run               what runs a block in place of `run_block`, such as a compiled form of it
    """
    visual, after, kept = with_matrices_in(visual, getattr(torch, precision)), [], []
    blocks = visual.transformer.resblocks
    with computing_in(precision, images.device):
        before, grid = embed_patches(visual, images, positions)
        tokens = before
        for index, block in enumerate(blocks[:-1]):
            tokens, attention = run(block, tokens, need_attention=index >= len(blocks) - attention_blocks)
            after.append(tokens.float())
            if attention is not None:
                kept.append(attention[:, 1:, 1:].float())
    return Tokens(tuple(after), before.float(), grid, tuple(kept))


def middle_blocks(published: Sequence[int], blocks: int) -> dict[int, int]:
    """By their published numbers, counted from 1, the blocks to read in an image tower of so many.

    The published ones, where all of them come before the last block; else those at the same share of the depth.
    """
    fits = max(published) < blocks
    return {number: number if fits else same_depth(number, blocks) for number in published}


def same_depth(number: int, blocks: int) -> int:
    """The block that is as deep as one of twelve: number * blocks / 12, halves up, at most the last but one."""
    return min((2 * number * blocks + DEPTH) // (2 * DEPTH), blocks - 1)


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of a block, (B, H, T, d) each; queries and keys are not scaled."""

    query: Tensor
    key: Tensor
    value: Tensor

    def scores(self, left: str, right: str) -> Tensor:
        """(B, H, T, T) scaled products, such as of "query" with "key"."""
        return getattr(self, left) * self.value.shape[-1] ** -0.5 @ getattr(self, right).transpose(-2, -1)


def heads_of(block: Block, tokens: Tensor) -> Heads:
    """The heads of tokens (B, T, D) that enter a block."""
    layer = block.attn
    projected = F.linear(block.ln_1(tokens), layer.in_proj_weight, layer.in_proj_bias)
    batch, length, _ = tokens.shape
    return Heads(*projected.view(batch, length, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4))


def attend(block: Block, attention: Tensor, value: Tensor) -> Tensor:
    """Values (B, H, T, d), gathered by an attention (B, H, T, T) or (T, T), and projected: (B, T, D)."""
    gathered = (attention @ value).transpose(1, 2)
    return block.attn.out_proj(gathered.reshape(*gathered.shape[:2], -1))


def finish(block: Block, tokens: Tensor, gathered: Tensor, residual: bool) -> Tensor:
    """What leaves the last block (B, T, D): as it was trained, or the attention's output alone (ClearCLIP)."""
    if not residual:
        return gathered
    return through_mlp(block, tokens + block.ls_1(gathered))


def through_mlp(block: Block, tokens: Tensor) -> Tensor:
    """Tokens (B, T, D) after the block's second half."""
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def to_features(visual: VisionTransformer, output: Tensor) -> Tensor:
    """Patches (B, N, D) that leave the last block to (B, N, E); not normalised."""
    return visual.ln_post(output) @ visual.proj


def neighbourhood(grid: tuple[int, int], std: float, like: Tensor) -> Tensor:
    """NACLIP's Gaussian window (T, T): exp(-distance^2 / (2 std^2)) in patches; 0 for the class token."""
    height, width = grid
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).to(like)
    window = torch.exp(-(torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist") ** 2) / (2 * std**2))
    return F.pad(window, (1, 0, 1, 0))


def window_alone(heads: Heads, window: Tensor) -> Tensor:
    """Scores (B, 1, T, T): the window scaled to the mean size of products of queries and keys (NACLIP's ablation)."""
    lengths = heads.query.norm(dim=-1)[..., None] * heads.key.norm(dim=-1)[..., None, :]  # (B, H, T, T)
    size = lengths.mean(dim=(1, 2, 3), keepdim=True) * heads.value.shape[-1] ** -0.5
    return size * window


Attention = Callable[[Heads, Tensor], Tensor]  # of heads and the window (T, T): weights (B, H, T, T), or (T, T)
ATTENTIONS: dict[str, Attention] = {
    "qk": lambda heads, window: heads.scores("query", "key").softmax(dim=-1),  # CLIP's own
    "qq": lambda heads, window: heads.scores("query", "query").softmax(dim=-1),  # ClearCLIP
    "kk": lambda heads, window: heads.scores("key", "key").softmax(dim=-1),
    "qq+kk": lambda heads, window: (
        ATTENTIONS["qq"](heads, window) + ATTENTIONS["kk"](heads, window)
    ),  # SCLIP; sums to 2
    "kk+window": lambda heads, window: (heads.scores("key", "key") + window).softmax(dim=-1),  # NACLIP
    "window": lambda heads, window: window_alone(heads, window).softmax(dim=-1),
    "identity": lambda heads, window: torch.eye(len(window)).to(window),  # MaskCLIP
}


@torch.no_grad()
def output_by(
    visual: VisionTransformer, tokens: Tokens, attention: str, residual: bool = False, std: float = 5.0
) -> Tensor:
    """Patches (B, N, D) that leave the last block with one of ATTENTIONS in it.

    residual  keep the block's residual connection and its MLP
    std       of the window, in patches
    """
    block, entering = visual.transformer.resblocks[-1], tokens.last_input
    heads = heads_of(block, entering)
    weights = ATTENTIONS[attention](heads, neighbourhood(tokens.grid, std, heads.key))
    return finish(block, entering, attend(block, weights, heads.value), residual)[:, 1:]
