"""The optimiser of MaskFormer as published: AdamW, a slower backbone, no decay of norms and queries."""

import torch
from torch import nn

from training.loop import parameter_groups

WEIGHT_DECAY, CLIP_NORM, POWER = 1e-4, 0.01, 0.9
NOT_DECAYED = (nn.GroupNorm, nn.LayerNorm, nn.Embedding)


def optimizer_for(
    network: nn.Module, backbone_factor: float = 0.1, weight_decay: float = WEIGHT_DECAY
) -> torch.optim.Optimizer:
    """AdamW over all parameters that learn; the loop sets the rates.

    backbone_factor  of the backbone's rate
    """
    layers = [layer for layer in network.modules() if isinstance(layer, NOT_DECAYED)]
    plain = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}

    def kind(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        factor = backbone_factor if name.startswith("backbone.") else 1.0
        return factor, 0.0 if id(parameter) in plain else weight_decay

    return torch.optim.AdamW(parameter_groups(network, kind), lr=0.0, betas=(0.9, 0.999), eps=1e-8)
