"""The running mean of the weights against its formula."""

import torch
from torch import nn

from segmentor.average import Average


def test_the_mean_follows_the_formula() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    average = Average(network, 0.9)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(4):
        network(torch.randn(2, 2, 4, 4))
        with torch.no_grad():
            network[0].weight.add_(torch.randn_like(network[0].weight))
        average.update(network)
        for name, value in network.state_dict().items():
            whole = name.endswith("num_batches_tracked")
            expected[name] = value.clone() if whole else 0.9 * expected[name] + 0.1 * value
    for name, value in expected.items():
        torch.testing.assert_close(average.weights[name], value)
    assert average.weights["1.num_batches_tracked"] == 4


def test_the_network_has_its_own_weights_again() -> None:
    network = nn.Linear(2, 2)
    average = Average(network, 0.5)
    with torch.no_grad():
        network.weight.add_(1)
    own = network.weight.clone()
    with average.inside(network):
        assert network.weight.equal(average.weights["weight"]) and not network.weight.equal(own)
    assert network.weight.equal(own)
