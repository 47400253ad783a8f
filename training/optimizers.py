"""Which parameter learns how fast and decays how much."""

from collections.abc import Callable
from typing import Any

from torch import nn

Kind = Callable[[str, nn.Parameter], tuple[float, float]]


def parameter_groups(network: nn.Module, kind: Kind) -> list[dict[str, Any]]:
    """The parameters that learn, as the groups of an optimiser.

    kind  the name of a parameter and the parameter, to the factor of its learning rate and its weight decay
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(kind(name, parameter), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
