"""The losses of SegCLIP's pretraining (Luo et al., ICML 2023, section 3.3; docs/methods.md, section 7).

Letters: B pairs of this process, R processes, G groups, N patches, C values of a patch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive(
    images: Tensor, texts: Tensor, all_images: Tensor, all_texts: Tensor, scale: Tensor, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each text among all images, and of each image among all texts: two means over the B pairs.

    images, texts          (B, E) features of this process, of unit length
    all_images, all_texts  (R*B, E) those of all processes, with gradients
    scale                  of the cosines
    first                  which of all pairs is the first one of this process
    """
    targets = torch.arange(first, first + len(images), device=images.device)
    by_text = F.cross_entropy(scale * texts @ all_images.T, targets)
    return by_text, F.cross_entropy(scale * images @ all_texts.T, targets)


def superpixel_divergence(hard: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """How far the groups of a superpixel's patches are from their mean: two divergences, KL(mean || patch) and back.

    hard  (B, G, N) the group of each patch, as 0 and 1 with a gradient
    ids   (B, N) int64, the superpixel of each patch
    Both are of softmax values, and means over B, N and G.
    """
    groups = hard.float().transpose(1, 2)  # (B, N, G)
    same = (ids[:, :, None] == ids[:, None]).to(groups.dtype)
    mean = (same @ groups) / same.sum(-1, keepdim=True)
    of_patch, of_mean = groups.log_softmax(-1), mean.log_softmax(-1)
    forth = F.kl_div(of_patch, of_mean, reduction="sum", log_target=True)
    back = F.kl_div(of_mean, of_patch, reduction="sum", log_target=True)
    return forth / groups.numel(), back / groups.numel()


def reconstruction(predicted: Tensor, wanted: Tensor, left_out: Tensor) -> Tensor:
    """The mean square of what was predicted for the patches that were left out.

    predicted, wanted  (B, N, C); left_out  (B, N), 1 for patches that were left out
    """
    errors = (predicted.float() - wanted).square().mean(-1)
    return (errors * left_out).sum() / left_out.sum()
