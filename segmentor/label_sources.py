"""Where the labels of a step come from, by name. May import torch and samples.

A source is called with a batch on its device and the 0-based iteration, and gives (B, S, S) int64 labels, 255 to
ignore; the network that is trained sees none of its gradients.
"""

from collections.abc import Callable

from torch import Tensor

from segmentor.samples import Batch

Source = Callable[[Batch, int], Tensor]


def masks(batch: Batch, iteration: int) -> Tensor:
    """The labels of the mask files."""
    return batch.labels


SOURCES: dict[str, Source] = {"masks": masks}
