"""What a MaskFormer learns from: masks of the classes in an image, matched with its queries (Cheng et al., 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.maskformer.modeling_maskformer import MaskFormerLoss

from dataset.spec import IGNORE_INDEX
from zsseg.maskformer import COSTS, Predictions

NAMES = {"loss_cross_entropy": "loss_ce", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}  # transformers' and ours
NOTHING = 254  # label of pixels that are known to be of no class, where others, of 255, count for nothing
FAR = -1e4  # a logit whose probability is exactly 0 in float32


@dataclass(frozen=True)
class Targets:
    """The classes of one image, (N,) int64, and where each is, (N, H, W) float32 of 0 and 1.

    unknown  (H, W) bool, pixels that no loss looks at; None: all are looked at
    """

    classes: Tensor
    masks: Tensor
    unknown: Tensor | None = None


def targets_of(labels: Tensor, ignored: bool = False) -> Targets:
    """One mask for each class in (H, W) int64 labels, in ascending order; 255 and 254 belong to none.

    ignored  255 is left out of the losses, in place of being outside of every mask
    """
    classes = labels.unique()
    classes = classes[classes < NOTHING]
    unknown = labels == IGNORE_INDEX if ignored else None
    return Targets(classes, (labels == classes[:, None, None]).float(), unknown)


def matched_losses(
    criterion: MaskFormerLoss, predictions: Predictions, targets: Sequence[Targets], counted: float | None = None
) -> dict[str, Tensor]:
    """The losses of all decoder layers by name, not weighted: `loss_ce`, `loss_mask`, `loss_dice` of the last one, and
    with `_0`, `_1`, ... those of the others, the first layer first.

    Queries are matched anew for each layer; where a class has no query of its own, there are too few queries.
    criterion  its matcher matches on the grid of the mask logits
    counted    masks to divide the losses of masks by; None: those of this batch, at least 1
    """
    own = max(1, sum(len(target.classes) for target in targets))
    share = own / counted if counted else 1.0
    known_in_part = any(target.unknown is not None and len(target.classes) for target in targets)
    layers, losses = len(predictions.class_logits), {}
    for layer in range(layers):
        masks, classes = predictions.mask_logits[layer].float(), predictions.class_logits[layer].float()
        found = (_where_known if known_in_part else _everywhere)(criterion, masks, classes, targets)
        ending = "" if layer == layers - 1 else f"_{layer}"
        for theirs, name in NAMES.items():
            losses[name + ending] = found[theirs] * (share if name != "loss_ce" else 1.0)
    return losses


def _everywhere(
    criterion: MaskFormerLoss, masks: Tensor, classes: Tensor, targets: Sequence[Targets]
) -> Mapping[str, Tensor]:
    """Losses of one layer: logits of masks (B, Q, h, w) and of classes (B, Q, C+1)."""
    return criterion(masks, classes, [target.masks for target in targets], [target.classes for target in targets])


def _where_known(
    criterion: MaskFormerLoss, masks: Tensor, classes: Tensor, targets: Sequence[Targets]
) -> Mapping[str, Tensor]:
    """The same with pixels that count for nothing: there, masks are taken to lie outside, where targets do."""
    unknown = torch.stack([target.unknown for target in targets if target.unknown is not None])
    small = F.interpolate(unknown[:, None].float(), size=masks.shape[-2:], mode="nearest") > 0
    labels = [target.classes for target in targets]
    matches = criterion.matcher(masks.masked_fill(small, FAR), classes, [target.masks for target in targets], labels)
    chosen = torch.cat([of_image[queries] for of_image, (queries, _) in zip(masks, matches)])
    wanted = torch.cat([target.masks[places] for target, (_, places) in zip(targets, matches)])
    hidden = torch.cat([rows.expand(len(places), -1, -1) for rows, (_, places) in zip(unknown, matches)])
    whole = F.interpolate(chosen[None], size=hidden.shape[-2:], mode="bilinear", align_corners=False)
    number, pairs = sum(map(len, labels)), [(torch.arange(len(wanted)),) * 2]
    of_masks = criterion.loss_masks(whole.masked_fill(hidden, FAR), [wanted], pairs, number)  # type: ignore[arg-type]
    return of_masks | criterion.loss_labels(classes, labels, matches)


def weighted_sum(losses: dict[str, Tensor], class_weight: float = COSTS["class"]) -> Tensor:
    """What is minimised."""
    weights = {"loss_ce": class_weight, "loss_mask": COSTS["mask"], "loss_dice": COSTS["dice"]}
    return torch.stack([weights["_".join(name.split("_")[:2])] * value for name, value in losses.items()]).sum()
