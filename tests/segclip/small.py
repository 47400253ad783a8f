"""A small SegCLIP with random weights, far from their start, so that a norm in the wrong place shows."""

import torch

from clip.transformer import BlockSizes, TextSizes, VitSizes
from segclip.network import SegClip, SegClipSizes, empty_network

SIDE, PATCH, EMBEDDING = 32, 8, 24  # pixels; a grid of 4 x 4 patches


@torch.no_grad()
def small_segclip(seed: int = 0, decoder: bool = True, groups: int = 5, vocabulary: int = 300) -> SegClip:
    """In evaluation mode and without gradients."""
    vision = VitSizes(BlockSizes(4, 128, 2, 256), PATCH, SIDE // PATCH, EMBEDDING)
    text = TextSizes(BlockSizes(2, 64, 1, 128), 77, vocabulary, EMBEDDING)
    network = empty_network(SegClipSizes(vision, text, first_stage=2, groups=groups, decoder=decoder))
    network.to_empty(device="cpu")
    random = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        value.normal_(std=0.1, generator=random)
        if name.endswith(("semantic_center", "token_embedding.weight", "conv1.weight")):
            value.mul_(5)
        elif value.ndim == 1 and name.endswith("weight"):
            value.add_(1)
        elif value.ndim == 2:
            value.mul_(0.6)
    network.clip.logit_scale.fill_(3.0)
    return network.eval().requires_grad_(False)
