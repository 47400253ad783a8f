"""Cross-entropy whose weights are those of the whole step, however it is cut into batches.

The weight of a pixel depends on its label only, and is known before the network runs: by counting the labels of all
images of a step, on all ranks, gradients that are summed are those of one large batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255


def label_counts(labels: Tensor, classes: int) -> Tensor:
    """(..., H, W) int64 labels to (C+1,) int64 pixel counts; the last one counts the pixels to ignore."""
    valid = labels != IGNORE
    counts = torch.bincount(labels[valid].flatten(), minlength=classes)
    return torch.cat([counts, (~valid).sum()[None]])


def label_weights(counts: Tensor, loss: str = "ce", over: str = "valid") -> Tensor:
    """(C+1,) counts of a step to (C,) float32 weights of one pixel of each label; summed over the step they make 1.

    ce        every valid pixel weighs the same
    balanced  the background (label 0) and all else weigh one half each; the one that is there, if the other is not
              (the balanced seed loss of DSRG, CVPR 2018)
    over      "all": divide by the ignored pixels too, as mmsegmentation does; less than 1 in sum then
    """
    pixels, ignored = counts[:-1], counts[-1]
    if loss == "balanced":
        parts = [pixels[:1], pixels[1:]]
        present = torch.stack([part.any() for part in parts]).sum().clamp(min=1)
        weights = torch.cat([_shared(part) for part in parts]) / present
    else:
        weights = _shared(pixels)
    if over == "all":
        weights = weights * pixels.sum() / (pixels.sum() + ignored)
    return weights


def _shared(pixels: Tensor) -> Tensor:
    """1 / (number of pixels) for every label, 0 where there are none; without waiting for a GPU."""
    total = pixels.sum()
    return ((total > 0).float() / total.clamp(min=1)).expand(len(pixels))


def weighted_cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum over pixels of the label's weight times -log softmax: scores (B, C, H, W), labels (B, H, W), weights (C,)."""
    return F.cross_entropy(scores, labels, weight=weights, ignore_index=IGNORE, reduction="sum")
