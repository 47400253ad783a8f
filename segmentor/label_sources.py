"""Where the labels of a step come from.

A source is called with a batch on its device and the 0-based iteration, and gives (B, S, S) int64 labels, 255 to
ignore; the network that is trained sees none of its gradients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segmentor.augment import HIDDEN, IGNORE
from segmentor.networks import enlarged
from segmentor.samples import Batch
from segmentor.settings import Teaching

Source = Callable[[Batch, int], Tensor]
Finder = Callable[[Tensor], Tensor]  # (B, 3, S, S) normalised images to (B, S, S) int64 labels, 255 to ignore


def masks(batch: Batch, iteration: int) -> Tensor:
    """The labels of the mask files; hidden ones are not trained on."""
    return batch.labels.masked_fill(batch.labels == HIDDEN, IGNORE)


@dataclass(frozen=True)
class Filled:
    """The labels of the mask files, the hidden ones found by `finders`, by the names of Teaching.finder."""

    teaching: Teaching
    finders: dict[str, Finder]

    def __call__(self, batch: Batch, iteration: int) -> Tensor:
        who = self.teaching.finder(iteration + 1)
        if not who:
            return masks(batch, iteration)
        return torch.where(batch.labels == HIDDEN, self.finders[who](batch.images), batch.labels)


@dataclass(frozen=True)
class OwnLabels:
    """A network's own labels of what it is about to learn from: the best of `labels`, which are mask values.

    It looks at the images in evaluation mode, so that its normalisation layers do not count them twice.
    """

    network: nn.Module
    labels: Sequence[int]
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        training = self.network.training
        self.network.eval()
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            scores = self.network(images)
        self.network.train(training)
        values = torch.tensor(self.labels, device=images.device)
        return values[enlarged(scores[:, values], images).argmax(dim=1)]
