"""Which parameter learns how fast and decays how much."""

import pytest
import torch

from segmentor.optimizers import optimizer_for, set_rate
from tests.segmentor.small import small_network


def by_name(name: str, head_factor: float) -> dict[str, tuple[float, float]]:
    """(rate, decay) of every parameter at a schedule's rate of 0.5."""
    network = small_network()
    optimizer = optimizer_for(network, name, 0.01, head_factor)
    set_rate(optimizer, 0.5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    return {key: found[id(weight)] for key, weight in network.named_parameters()}


def test_adamw_leaves_norms_alone_and_speeds_up_the_heads() -> None:
    assert by_name("adamw", 10) == {
        "body.encoder.0.weight": (0.5, 0.01),
        "body.encoder.0.bias": (0.5, 0.01),
        "body.encoder.1.weight": (0.5, 0.0),
        "body.encoder.1.bias": (0.5, 0.0),
        "body.decode_head.weight": (5.0, 0.01),
        "body.decode_head.bias": (5.0, 0.01),
        "head.weight": (5.0, 0.01),
        "head.bias": (5.0, 0.01),
    }


def test_sgd_decays_everything() -> None:
    assert set(by_name("sgd", 1.0).values()) == {(0.5, 0.01)}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_as_the_formula_has_it(name: str) -> None:
    network = small_network()
    optimizer, weight = optimizer_for(network, name, 0.1, 1.0), network.head.weight
    set_rate(optimizer, 0.01)
    before = weight.detach().clone()
    gradient = torch.linspace(-1, 1, weight.numel()).reshape(weight.shape)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weight.grad = gradient.clone()
    optimizer.step()
    if name == "sgd":
        expected = before - 0.01 * (gradient + 0.1 * before)
    else:  # in the first step the two means of AdamW cancel to the gradient's sign
        expected = before * (1 - 0.01 * 0.1) - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=1e-5)
