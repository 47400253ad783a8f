"""Which parameter learns how fast and decays how much."""

import torch
from torch import nn

from tests.training.small import network
from training.optimizers import parameter_groups, set_rate


def test_every_parameter_that_learns_is_in_the_group_of_its_kind() -> None:
    model = network()
    model[3].bias.requires_grad_(False)

    def kind(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        return 10.0 if name.startswith("3") else 1.0, 0.1 if parameter.ndim > 1 else 0.0

    optimizer = torch.optim.SGD(parameter_groups(model, kind), 0.0)
    set_rate(optimizer, 0.5)
    found = {
        id(one): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]
    }
    assert {name: found.get(id(one)) for name, one in model.named_parameters()} == {
        "0.weight": (0.5, 0.1), "0.bias": (0.5, 0.0), "3.weight": (5.0, 0.1), "3.bias": None,
    }  # fmt: skip
