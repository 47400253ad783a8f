"""Step 5: labels against the ground truth, from one confusion matrix (docs/methods.md 1.5).

Two rules for classes that the ground truth never shows, by name (docs/methods.md 4):
truth  they are left out of every mean, as in the reference CLIP-ES
union  those that are predicted somewhere have IoU 0 and count in mIoU, as in mmsegmentation and detectron2
By either, a prediction of such a class is an error of the class it stands in for, and the mean accuracy is of the
classes that the ground truth shows.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dataset.spec import IGNORE_INDEX

ABSENT_RULES = ("truth", "union")


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_labels: int) -> np.ndarray:
    """(C, C+1) int64 pixel counts: rows are true labels, columns predicted ones, the last column "not predicted".

    truth      (H, W) uint8; values >= C (255 in VOC) are left out
    predicted  (H, W) uint8; 255 counts as not predicted
    num_labels C, background included
    Raises ValueError for different shapes and for a predicted label that is neither below C nor 255.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, the prediction {predicted.shape}")
    scored = truth < num_labels
    columns = predicted[scored].astype(np.int64)
    unpredicted = columns == IGNORE_INDEX
    highest = columns[~unpredicted].max(initial=0)
    if highest >= num_labels:
        raise ValueError(f"label {highest} predicted where the data set has labels 0..{num_labels - 1} and 255")
    columns[unpredicted] = num_labels
    rows = truth[scored].astype(np.int64)
    counts = np.bincount(rows * (num_labels + 1) + columns, minlength=num_labels * (num_labels + 1))
    return counts.reshape(num_labels, num_labels + 1)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; shares in [0, 1].

    iou             by label; None for classes that do not count, by the rule for absent ones
    accuracy        by label, the share of its pixels that are right; None for classes that the ground truth never shows
    weighted_iou    IoU of the labels, weighted by their shares of the ground truth (detectron2's fwIoU)
    coverage        share of the scored pixels that were predicted at all (not 255)
    precision       share of those predicted pixels that are right
    absent          that rule, one of ABSENT_RULES
    """

    miou: float
    iou: tuple[float | None, ...]
    pixel_accuracy: float
    mean_accuracy: float
    coverage: float
    precision: float
    accuracy: tuple[float | None, ...]
    weighted_iou: float
    absent: str = "truth"


def scores_of(confusion: np.ndarray, absent: str = "truth") -> Scores:
    """Scores of a (C, C+1) confusion matrix, by one of ABSENT_RULES. All are 0 when it counts no pixel."""
    right = np.diag(confusion).astype(np.float64)
    true, predicted = confusion.sum(axis=1), confusion[:, :-1].sum(axis=0)
    shown, union = true > 0, true + predicted - right
    counted = shown if absent == "truth" else union > 0
    by_label = np.full(len(true), np.nan)
    by_label[counted] = right[counted] / union[counted]
    accuracy = np.divide(right, true, out=np.full(len(true), np.nan), where=shown)
    return Scores(
        miou=float(by_label[counted].mean()) if counted.any() else 0.0,
        iou=_optional(by_label),
        pixel_accuracy=_share(right.sum(), true.sum()),
        mean_accuracy=float(accuracy[shown].mean()) if shown.any() else 0.0,
        coverage=_share(predicted.sum(), true.sum()),
        precision=_share(right.sum(), predicted.sum()),
        accuracy=_optional(accuracy),
        weighted_iou=_share(float((true[shown] * by_label[shown]).sum()), true.sum()),
        absent=absent,
    )


@dataclass(frozen=True)
class SplitScores:
    """Mean IoU of the seen and of the unseen classes, and hIoU, their harmonic mean; None without such classes."""

    seen: float | None
    unseen: float | None
    harmonic: float | None


def split_scores(iou: Sequence[float | None], unseen: Collection[int]) -> SplitScores:
    """The means over both sets of labels, of those that count; `unseen` are labels, all others are seen."""
    counted = [(label in unseen, value) for label, value in enumerate(iou) if value is not None]
    means = []
    for is_unseen in (False, True):
        values = [value for group, value in counted if group == is_unseen]
        means.append(sum(values) / len(values) if values else None)
    seen_mean, unseen_mean = means
    harmonic = None
    if seen_mean is not None and unseen_mean is not None:
        total = seen_mean + unseen_mean
        harmonic = 2 * seen_mean * unseen_mean / total if total else 0.0
    return SplitScores(seen_mean, unseen_mean, harmonic)


@dataclass(frozen=True)
class SetScores:
    """Scores of a set of labels, and of all others; None where none of them counts.

    pixel_accuracy  share of their pixels in the ground truth that are right
    harmonic        of both means of IoU
    """

    miou: float | None
    others_miou: float | None
    pixel_accuracy: float | None
    others_pixel_accuracy: float | None
    harmonic: float | None


def set_scores(confusion: np.ndarray, labels: Collection[int], absent: str = "truth") -> SetScores:
    """Scores of a set of labels in a (C, C+1) confusion matrix of all of them, by one of ABSENT_RULES."""
    inside = np.isin(np.arange(len(confusion)), sorted(labels))
    others = np.flatnonzero(~inside).tolist()
    means = split_scores(scores_of(confusion, absent).iou, others)
    right, true = np.diag(confusion), confusion.sum(axis=1)
    own, rest = (
        _share(right[part].sum(), true[part].sum()) if true[part].any() else None for part in (inside, ~inside)
    )
    return SetScores(means.seen, means.unseen, own, rest, means.harmonic)


def _optional(values: np.ndarray) -> tuple[float | None, ...]:
    """None in place of NaN."""
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _share(part: float, total: float) -> float:
    return float(part / total) if total else 0.0


REFINED_EXPONENTS = (1.0, 2.0)
UNREFINED_EXPONENTS = tuple(float(alpha) for alpha in range(1, 11))
CONSTANTS = tuple(round(0.05 * step, 2) for step in range(1, 13))  # 0.05 .. 0.6


def backgrounds_for(cam_type: str, threshold: float) -> tuple[float, ...]:
    """The background settings that are swept: constants when `threshold` < 1, else exponents (docs/methods.md 1.5).

    A `threshold` of the user's own, below 1 and not on the list, joins it.
    """
    if threshold < 1:
        return tuple(sorted({*CONSTANTS, threshold}))
    return REFINED_EXPONENTS if cam_type == "attn_highres" else UNREFINED_EXPONENTS


def sweep_confusions(
    truth: np.ndarray,
    keys: np.ndarray,
    maps: np.ndarray,
    backgrounds: Sequence[float],
    num_labels: int,
    precision: type = np.float32,
) -> np.ndarray:
    """Confusion matrices of one image for every background setting, (S, C, C+1).

    truth       (H, W) uint8
    keys        (k,) 0-based class indices
    maps        (k, H, W) in [0, 1]
    backgrounds S settings: below 1 a constant score, from 1 on an exponent of (1 - max_c cam)
    precision   float16 computes the background score as the reference does, to its last digit

    The best class of a pixel does not depend on the background, so it is found once; ties go to the background, as
    argmax over [background, classes] would have it. A setting lets the class win from some score on: the pixels are
    counted once by (truth, best class, number of settings won), and the settings' matrices are sums of these counts.
    """
    if len(maps):
        maps = maps.astype(precision)
        best, highest = np.asarray(keys)[maps.argmax(axis=0)] + 1, maps.max(axis=0)
    else:
        best, highest = np.zeros(truth.shape, np.int64), np.zeros(truth.shape, precision)
    cuts = [least_winning(setting, precision) for setting in backgrounds]
    scored = truth < num_labels
    won = np.sum([highest[scored] >= cut for cut in cuts], axis=0, dtype=np.int64)
    codes = (truth[scored].astype(np.int64) * num_labels + best[scored]) * (len(cuts) + 1) + won
    counts = np.bincount(codes, minlength=num_labels**2 * (len(cuts) + 1)).reshape(num_labels, num_labels, -1)
    confusions = np.zeros((len(cuts), num_labels, num_labels + 1), np.int64)
    for rank, index in enumerate(np.argsort(cuts, kind="stable")):  # the easiest setting is won first
        confusions[index, :, :num_labels] = counts[..., rank + 1 :].sum(axis=-1)
        confusions[index, :, 0] += counts[..., : rank + 1].sum(axis=(1, 2))
    return confusions


@lru_cache(maxsize=256)
def least_winning(setting: float, precision: type) -> np.floating:
    """The least score, of dtype `precision`, that beats the background it leaves; exact, by bisection over all floats.

    The background falls as the score rises, so there is one such score; floats from 0 on are ordered as their bits.
    """
    bits = np.dtype(f"u{np.dtype(precision).itemsize}")
    lost, won = np.zeros(1, precision).view(bits)[0], np.ones(1, precision).view(bits)[0]
    while won - lost > 1:
        middle = lost + (won - lost) // bits.type(2)
        score: np.ndarray = np.array([middle], bits).view(precision)
        if score[0] > _background(score, setting)[0]:
            won = middle
        else:
            lost = middle
    return np.array([won], bits).view(precision)[0]


def _background(highest: np.ndarray, setting: float) -> np.ndarray:
    if setting < 1:
        return np.full_like(highest, setting)
    return (1 - highest) ** highest.dtype.type(setting)
