"""What SegCLIP's groups say of each pixel: scores of classes by text (docs/methods.md, section 7).

Letters: b windows, G groups, N patches, E embedding, K classes, k of them in an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.vision import RunBlock, run_block
from pipeline.steps.tensors import computing_in
from segclip.forward import gather, group_features, patch_tokens
from segclip.load import GroupingClip


@dataclass(frozen=True)
class Windows:
    """What comes of a batch of windows.

    groups        (b, H, W) int64, the group of every pixel
    image_logits  (b, K) of the whole window for each class
    group_logits  (b, G, K) of each of its groups
    """

    groups: Tensor
    image_logits: Tensor
    group_logits: Tensor


@torch.no_grad()
def look_at_windows(
    clip: GroupingClip, windows: Tensor, texts: Tensor, precision: str = "float32", run: RunBlock = run_block
) -> Windows:
    """Groups and logits of windows (b, 3, H, W) for unit text embeddings (K, E).

    Positions are resized for windows that are smaller than what the network was trained with.

    precision  of the blocks that see patches, by autocast
    run        what runs them
    """
    visual = clip.visual
    with computing_in(precision, windows.device):
        tokens = patch_tokens(visual, windows, run=run)
    gathered = gather(visual.transformer.semantic_layer2, tokens.float())
    features = (F.normalize(part, dim=-1) for part in group_features(visual, gathered.tokens))
    image_logits, group_logits = (clip.logit_scale * part @ texts.T for part in features)
    patch, size = clip.patch_size, (windows.shape[-2], windows.shape[-1])
    groups = pixel_groups(gathered.soft, (size[0] // patch, size[1] // patch), size)
    return Windows(groups, image_logits, group_logits)


def pixel_groups(soft: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Assignments (b, G, N) of the patches of a grid to the groups (b, H, W) of pixels: the most probable of each."""
    maps = soft.unflatten(2, grid)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False).argmax(dim=1)


def affinities(windows: Windows, present: Sequence[int], top: int) -> Tensor:
    """How much each group is of each present class, (b, G, k) in [0, 1].

    present  k of the K classes
    top      classes, a window's most probable ones among these, that can have more than 0

    The probability of a class among those, times its probability among all K.
    """
    chosen = list(present)
    groups, image = windows.group_logits, windows.image_logits[:, chosen]  # (b, G, K), (b, k)
    best = image.topk(min(top, len(chosen)), dim=1).indices
    hidden = torch.ones_like(image, dtype=torch.bool).scatter_(1, best, False)
    among_best = groups[..., chosen].masked_fill(hidden[:, None], float("-inf")).softmax(dim=-1)
    return among_best * groups.softmax(dim=-1)[..., chosen]


def background_of(affinity: Tensor, threshold: float) -> Tensor:
    """The background's score (b, G) for affinities (b, G, k): 1 for groups that are hardly of any class, else 0.

    Their largest affinity lies below the threshold, and below the largest of all groups of the window.
    """
    if not affinity.shape[-1]:
        return affinity.new_ones(affinity.shape[:-1])
    largest = affinity.amax(dim=-1)
    return (largest < largest.amax(dim=1, keepdim=True).clamp(max=threshold)).to(affinity.dtype)


def scores_of(affinity: Tensor, groups: Tensor, threshold: float | None) -> Tensor:
    """Scores (b, k, H, W): of a pixel's group for each class, minus the background's where there is one.

    groups     (b, H, W) as in Windows
    threshold  None: no background. 0: one that no pixel belongs to

    The background's own score is then 0, and the largest wins the pixel: as published, where both stand side by side.
    """
    if threshold == 0:
        affinity = affinity + 1  # even where no class has any score
    elif threshold is not None:
        affinity = affinity - background_of(affinity, threshold)[..., None]
    return torch.stack([table.T[:, of_pixel] for table, of_pixel in zip(affinity, groups)])
