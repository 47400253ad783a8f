"""SegCLIP's weights: read from a file with every one accounted for, or begun from those of a CLIP."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip.archive import Weights, read_tensors
from clip.load import Clip, check_weights
from clip.model import StateDict, Texts, fill, holds_resnet, sizes_of_weights
from clip.other_models import SEGCLIP as CENTRE
from clip.transformer import VitSizes
from common.errors import UserError
from segclip.forward import highest_scale
from segclip.masked import fixed_positions
from segclip.network import GROUPS, LAST_BLOCKS, SegClip, SegClipSizes, empty_network

EXPECTED = "a SegCLIP checkpoint: segclip.bin, or weights of scripts/pretrain_segclip.py"
PREFIX, DECODER = "clip.", "vis_mae_decoder."
SEGCLIP = f"{PREFIX}{CENTRE}"
STD = 0.02  # of what is drawn
FROM_CLIP = re.compile(r"visual\.transformer\.(layers0|layers2)\.(\d+)\.(.+)")
INTO_STAGES = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)")
OWN = (
    "visual.transformer.semantic_layer2.",
    "visual.transformer.layers_mae2.",
    "visual.transformer.reconstruct_layer2.",
)


@dataclass(frozen=True)
class GroupingClip(Clip):
    """A frozen SegCLIP in a CLIP's place: `model` has the towers and the logit scale, `visual` is a GroupingVision."""

    @property
    def logit_scale(self) -> Tensor:
        """exp(logit_scale), at most 100."""
        return highest_scale(self.model.logit_scale)

    def describe(self) -> str:
        """One line for people."""
        visual, transformer = self.visual, self.visual.transformer
        blocks = f"{len(transformer.layers0)}+{len(transformer.layers2)} blocks, width {visual.conv1.out_channels}"
        groups = len(transformer.semantic_layer2.semantic_center)
        return f"{self.name} (SegCLIP, {blocks}, patch {self.patch_size}, {groups} groups, weights {self.fingerprint})"


def load_segclip(path: Path, device: str | torch.device = "cpu", activation: str = "auto") -> GroupingClip:
    """A frozen SegCLIP from a file, in float32.

    activation  of the MLPs: "quick_gelu", "gelu" or "auto", which is QuickGELU, as in the published model
    Raises UserError as `read_segclip`.
    """
    activation = "quick_gelu" if activation == "auto" else activation
    network, fingerprint = read_segclip(path, activation)
    network.to(device)
    towers: Any = network.clip  # has what a CLIP's model has
    return GroupingClip(towers, Texts(network.clip, {}), path.name, activation, fingerprint)


def read_segclip(path: Path, activation: str = "quick_gelu") -> tuple[SegClip, str]:
    """The network of a checkpoint on the CPU, in evaluation mode and without gradients, and the file's fingerprint.

    Reads plain state dicts (.bin, .pt) and safetensors, without running code from them. The decoder of the masked
    image may be missing as a whole; `vis_mae_decoder` is None then.
    Raises UserError for another file, and for weights that are missing, left over, of another shape or not finite.
    """
    weights = read_tensors(path)
    return network_of(weights, str(path), activation), weights.fingerprint


def network_of(weights: Weights, source: str, activation: str = "quick_gelu") -> SegClip:
    """The network that has these weights; `source` names them in messages."""
    state = weights.state
    if SEGCLIP not in state:
        kind = "of a plain CLIP" if "visual.conv1.weight" in state else "of another network"
        raise UserError(f"{source}: the weights {kind}; expected {EXPECTED}")
    try:
        network = empty_network(sizes_of(state), activation)
    except KeyError as error:
        raise UserError(f"{source}: weight {PREFIX}{str(error)[1:-1]} is missing; expected {EXPECTED}") from error
    except Exception as error:  # torch has its own for sizes that cannot be
        raise UserError(f"{source}: its weights do not have the shapes of a SegCLIP; expected {EXPECTED}") from error
    check_weights(source, state, network.state_dict(), "a complete SegCLIP of this size")
    fill(network, state)
    return network


def sizes_of(state: StateDict) -> SegClipSizes:
    """The sizes of the SegCLIP whose weights a state dict holds.

    Raises KeyError for a weight that is missing, and others for shapes that make no sense.
    """
    matches = [FROM_CLIP.fullmatch(name.removeprefix(PREFIX)) for name in state]
    first_stage = len({match[2] for match in matches if match and match[1] == "layers0"})
    vision, text = sizes_of_weights(as_clip(state, first_stage))
    assert isinstance(vision, VitSizes)
    decoder = any(name.startswith(DECODER) for name in state)
    return SegClipSizes(vision, text, first_stage, len(state[SEGCLIP]), decoder)


def as_clip(state: StateDict, first_stage: int) -> StateDict:
    """The weights that a CLIP has too, under its names: both stages are one stack of blocks."""

    def renamed(name: str) -> str:
        match = FROM_CLIP.fullmatch(name)
        if match is None:
            return name
        number = int(match[2]) + (first_stage if match[1] == "layers2" else 0)
        return f"visual.transformer.resblocks.{number}.{match[3]}"

    shared = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    return {renamed(name): value for name, value in shared.items() if not name.startswith(OWN)}


def begin_from(
    clip: Clip, generator: torch.Generator, decoder: bool = True, last_blocks: int = LAST_BLOCKS, groups: int = GROUPS
) -> SegClip:
    """A SegCLIP to be pretrained, on the CPU, with gradients: a CLIP's weights, and the rest drawn at random.

    clip         with a plain ViT of whatever sizes
    decoder      of the masked image
    last_blocks  of the CLIP, which will see groups instead of patches (`layers2`)

    Raises UserError for a CLIP that cannot become one.
    """
    tower = clip.texts.tower(clip.device)
    given = {name: value.detach().cpu() for part in (clip.model, tower) for name, value in part.state_dict().items()}
    if holds_resnet(given):
        raise UserError(f"{clip.name}: its image tower is a ResNet; expected a CLIP with a ViT")
    image_heads, text_heads = (part.transformer.resblocks[0].attn.num_heads for part in (clip.visual, tower))
    vision, text = sizes_of_weights(given, (image_heads, text_heads))
    assert isinstance(vision, VitSizes)
    first_stage = vision.blocks.layers - last_blocks
    try:
        network = empty_network(SegClipSizes(vision, text, first_stage, groups, decoder), clip.activation)
    except ValueError as error:
        raise UserError(f"{clip.name}: cannot become a SegCLIP ({error}); expected a ViT such as ViT-B/16") from error
    network.to_empty(device="cpu")
    draw(network, generator)
    started = network.state_dict()
    with torch.no_grad():
        for name, value in given.items():
            started[PREFIX + into_stages(name, first_stage)].copy_(value)
    return network


def into_stages(name: str, first_stage: int) -> str:
    """SegCLIP's name, without prefix, of a weight of a CLIP."""
    match = INTO_STAGES.fullmatch(name)
    if match is None:
        return name
    number = int(match[1])
    stage, index = ("layers0", number) if number < first_stage else ("layers2", number - first_stage)
    return f"visual.transformer.{stage}.{index}.{match[2]}"


@torch.no_grad()
def draw(network: SegClip, generator: torch.Generator) -> None:
    """Give every weight its start; a CLIP's own weights replace most of them.

    Linear layers, centres and the mask token: normal, of standard deviation 0.02, biases 0; attention's input
    projection: uniform (Glorot and Bengio, 2010); layer norms 1 and 0; the convolutions of keys and values: uniform
    within 1/sqrt(64 channels).
    """
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()
        elif isinstance(module, nn.MultiheadAttention):
            assert module.in_proj_weight is not None and module.in_proj_bias is not None
            nn.init.xavier_uniform_(module.in_proj_weight, generator=generator)
            module.in_proj_bias.zero_()
        elif isinstance(module, nn.Linear):
            module.weight.normal_(std=STD, generator=generator)
            module.bias.zero_()
        elif isinstance(module, nn.Conv1d):
            bound = module.weight.shape[1] ** -0.5
            module.weight.uniform_(-bound, bound, generator=generator)
    visual = network.clip.visual
    visual.transformer.semantic_layer2.semantic_center.normal_(std=STD, generator=generator)
    if network.vis_mae_decoder is not None:
        network.vis_mae_decoder.mask_token.normal_(std=STD, generator=generator)
        width = network.vis_mae_decoder.mask_token.shape[-1]
        side = round((len(visual.positional_embedding) - 1) ** 0.5)
        network.vis_mae_decoder.decoder_pos_embed.copy_(fixed_positions(side, width))
