"""From cosines of patches and words to classes, as SCLIP (Wang et al., ECCV 2024) and its successors do it.

Q words, C classes; class 0 is the background where there is one. Several words may name one class.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 30000.0  # of a logit; half precision holds up to 65504


def class_values(cosines: Tensor, owners: Sequence[int], scale: float) -> Tensor:
    """(Q, ...) to (C, ...): the softmax over all words at a logit scale; a class has the largest value of its words.

    owners  the class of each word; every class from 0 to C-1 has one
    """
    values = (scale * cosines).softmax(dim=0)
    return torch.stack([values[[word for word, owner in enumerate(owners) if owner == index]].amax(dim=0)
                        for index in range(max(owners) + 1)])  # fmt: skip


def without_small_classes(values: Tensor, share: float) -> Tensor:
    """Values (C, H, W) with 0 for the classes that win at most this share of the pixels that any class wins.

    Class 0 is the background, which is not counted and stays. Their pixels go to the next best; there is no second
    round.
    """
    pixels = torch.bincount(values.argmax(dim=0).flatten(), minlength=len(values))[1:]
    small = pixels <= share * pixels.sum()
    return torch.cat([values[:1], torch.where(small[:, None, None], 0.0, values[1:])])


def labels_above(values: Tensor, threshold: float) -> Tensor:
    """(H, W) int64: the best of (C, H, W), or 0 where the largest value is below the threshold."""
    best, labels = values.max(dim=0)
    return torch.where(best < threshold, 0, labels)


def to_logits(values: Tensor, threshold: float, has_background: bool) -> Tensor:
    """Values (C, ...) to logits of the classes without the background, which is at 0; no logit is above LARGEST.

    threshold  the background takes every place whose largest value is below it
    Without background class they are relative to the best class.
    """
    logs = values.log().clamp(min=-LARGEST)
    if not has_background:
        return (logs - logs.amax(dim=0)).clamp(-LARGEST, LARGEST)
    logits = (logs[1:] - logs[0]).clamp(-LARGEST, LARGEST)
    return torch.where(values.amax(dim=0) < threshold, -LARGEST, logits)
