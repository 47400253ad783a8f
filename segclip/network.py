"""SegCLIP's network as plain modules, whose parameters have the published names (docs/methods.md, section 7).

The modules only hold what a checkpoint holds. How images pass through them is in segclip/forward.py, and how the masked
image is drawn again in segclip/masked.py; both are for training too.
Letters: B images, G groups (centres), N patches, T tokens, D width, E embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from clip.model import MAX_BLOCKS, MAX_CONTEXT
from clip.transformer import (
    ACTIVATIONS,
    Block,
    BlockSizes,
    LayerNorm,
    TextSizes,
    TextTransformer,
    VisionTransformer,
    VitSizes,
)

GROUPS = 8  # published
LAST_BLOCKS = 2  # of the vision transformer, which see the groups (`layers2`)
CROSS_BLOCKS = 2
CHANNELS = 64  # of a group of the convolutions that make keys and values
DECODER_BLOCKS, DECODER_HEADS, DECODER_EPSILON = 3, 8, 1e-6


@dataclass(frozen=True)
class SegClipSizes:
    """Sizes of a SegCLIP.

    vision       as those of the CLIP that it starts from; `blocks.layers` counts `layers0` and `layers2` together
    first_stage  blocks that see patches (`layers0`)
    groups       centres
    decoder      whether it has the decoder of the masked image, which only pretraining uses
    """

    vision: VitSizes
    text: TextSizes
    first_stage: int
    groups: int = GROUPS
    decoder: bool = True


class CrossBlock(nn.Module):
    """Centres look at themselves and the patches: q + attention(ln_x(q), ln_k([q, patches])), then q + MLP(ln_2(q))."""

    def __init__(self, sizes: BlockSizes, activation: str) -> None:
        super().__init__()
        width = sizes.width
        self.attn = nn.MultiheadAttention(width, sizes.heads, batch_first=True)
        self.ln_x, self.ln_k, self.ln_2 = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        layers = OrderedDict[str, nn.Module]()
        layers["c_fc"] = nn.Linear(width, sizes.inner)
        layers["gelu"] = ACTIVATIONS[activation]()
        layers["c_proj"] = nn.Linear(sizes.inner, width)
        self.mlp = nn.Sequential(layers)


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class GroupProjection(nn.Module):
    """What becomes of a centre and the patches that it gathered: activation(MLP(norm(x)))."""

    def __init__(self, sizes: BlockSizes, activation: str) -> None:
        super().__init__()
        self.ln = LayerNorm(sizes.width)
        self.mlp = Mlp(sizes.width, sizes.inner)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.mlp(self.ln(x)))


class SemanticLayer(nn.Module):
    """Learned centres, the blocks in which they look at the patches, and the projections by which they gather them."""

    cross_att: Any  # of CrossBlock

    def __init__(self, sizes: BlockSizes, groups: int, activation: str) -> None:
        super().__init__()
        width = sizes.width
        self.semantic_center = nn.Parameter(torch.empty(groups, width))
        self.cross_att = nn.ModuleList(CrossBlock(sizes, activation) for _ in range(CROSS_BLOCKS))
        self.norm, self.cross_ln, self.k_ln = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.k_conv = nn.Conv1d(width, width, 1, groups=width // CHANNELS, bias=False)
        self.v_conv = nn.Conv1d(width, width, 1, groups=width // CHANNELS, bias=False)
        self.proj_o = GroupProjection(sizes, activation)


class Assignments(nn.Module):
    """A linear layer over the groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a_fc = nn.Linear(groups, groups)


class Reconstruction(nn.Module):
    """Group tokens back to the places of their patches."""

    def __init__(self, groups: int, activation: str) -> None:
        super().__init__()
        self.rec_proj_a = Assignments(groups)
        self.act = ACTIVATIONS[activation]()


class GroupingTransformer(nn.Module):
    """Blocks over patches, the semantic layer, blocks over groups; and those over patches that were drawn again."""

    layers0: Any  # of Block
    layers2: Any
    layers_mae2: Any

    def __init__(self, sizes: SegClipSizes, activation: str) -> None:
        super().__init__()
        blocks, last = sizes.vision.blocks, sizes.vision.blocks.layers - sizes.first_stage
        self.layers0 = nn.ModuleList(Block(blocks, activation) for _ in range(sizes.first_stage))
        self.semantic_layer2 = SemanticLayer(blocks, sizes.groups, activation)
        self.layers2 = nn.ModuleList(Block(blocks, activation) for _ in range(last))
        self.layers_mae2 = nn.ModuleList(Block(blocks, activation) for _ in range(last))
        self.reconstruct_layer2 = Reconstruction(sizes.groups, activation)


class GroupingVision(VisionTransformer):
    """The image tower: CLIP's, with other blocks."""

    transformer: GroupingTransformer  # type: ignore[assignment]

    def __init__(self, sizes: SegClipSizes, activation: str) -> None:
        super().__init__(replace(sizes.vision, blocks=replace(sizes.vision.blocks, layers=0)), activation)
        self.transformer = GroupingTransformer(sizes, activation)


class Towers(TextTransformer):
    """CLIP's text tower, which is called with token ids, with the image tower and the logit scale beside it."""

    def __init__(self, sizes: SegClipSizes, activation: str) -> None:
        super().__init__(sizes.text, activation)
        self.visual = GroupingVision(sizes, activation)
        self.logit_scale = nn.Parameter(torch.empty(()))


class DecoderAttention(nn.Module):
    """The weights of self-attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)


class DecoderBlock(nn.Module):
    """x + attention(norm1(x)), then x + MLP(norm2(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width, DECODER_EPSILON), LayerNorm(width, DECODER_EPSILON)
        self.attn, self.mlp = DecoderAttention(width), Mlp(width, 4 * width)


class MaskedDecoder(nn.Module):
    """Draws the patches that were left out (He et al., CVPR 2022), of half the tower's width."""

    decoder_blocks: Any  # of DecoderBlock
    decoder_pos_embed: Tensor

    def __init__(self, vision: VitSizes) -> None:
        super().__init__()
        width = vision.blocks.width // 2
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("decoder_pos_embed", torch.empty(1, vision.side**2 + 1, width))  # fixed
        self.decoder_embed = nn.Linear(vision.blocks.width, width)
        self.decoder_blocks = nn.ModuleList(DecoderBlock(width) for _ in range(DECODER_BLOCKS))
        self.decoder_norm = LayerNorm(width, DECODER_EPSILON)
        self.decoder_pred = nn.Linear(width, 3 * vision.patch**2)


class SegClip(nn.Module):
    """All of SegCLIP. `vis_mae_decoder` is None where it was pretrained without the masked image."""

    def __init__(self, sizes: SegClipSizes, activation: str = "quick_gelu") -> None:
        super().__init__()
        self.clip = Towers(sizes, activation)
        self.vis_mae_decoder = MaskedDecoder(sizes.vision) if sizes.decoder else None


def empty_network(sizes: SegClipSizes, activation: str = "quick_gelu") -> SegClip:
    """A SegCLIP of these sizes on the meta device. Raises ValueError for sizes that none has."""
    vision = sizes.vision.blocks
    if max(vision.layers, sizes.text.blocks.layers) > MAX_BLOCKS or sizes.text.context > MAX_CONTEXT:
        raise ValueError("too many blocks or tokens")
    if not 0 < sizes.first_stage < vision.layers or not 1 <= sizes.groups <= MAX_CONTEXT:
        raise ValueError("no blocks before or behind the semantic layer, or no centres")
    if vision.width % CHANNELS or vision.layer_scale:
        raise ValueError(f"a width of {vision.width}, or blocks with layer scale")
    with torch.device("meta"):
        return SegClip(sizes, activation)
