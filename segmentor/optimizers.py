"""AdamW and SGD as SegFormer and DeepLab use them."""

import torch
from torch import nn
from torch.optim import Optimizer

from segmentor.networks import norm_parameters

OPTIMIZERS = ("adamw", "sgd")
MOMENTUM = 0.9
BETAS = (0.9, 0.999)


def optimizer_for(network: nn.Module, name: str, decay: float, head_factor: float) -> Optimizer:
    """The optimizer; each group has a `factor` by which the schedule's rate is multiplied.

    Parameters with `head` in their name get `head_factor`. AdamW does not decay normalisation layers; SGD decays all.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    norms = norm_parameters(network) if name == "adamw" else set()
    for key, weight in network.named_parameters():
        if weight.requires_grad:
            kind = head_factor if "head" in key else 1.0, 0.0 if key in norms else decay
            groups.setdefault(kind, []).append(weight)
    named = [
        {"params": weights, "factor": factor, "weight_decay": own_decay}
        for (factor, own_decay), weights in groups.items()
    ]
    if name == "adamw":
        return torch.optim.AdamW(named, lr=0.0, betas=BETAS, fused=True)  # one call for all weights, not one each
    return torch.optim.SGD(named, lr=0.0, momentum=MOMENTUM)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group its share of the schedule's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
