"""What turns a network's features into scores, by name. May import torch.

A new head is a function of (features, labels) in HEADS; its parameters learn at the head's rate.
"""

from collections.abc import Callable

from torch import nn


def linear(features: int, labels: int) -> nn.Module:
    """One learned weight vector a label: (B, D, h, w) features to (B, C, h, w) scores."""
    return nn.Conv2d(features, labels, kernel_size=1)


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"linear": linear}
