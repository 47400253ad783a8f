"""Pseudo labels for self-training: what is labelled stays, the rest gets its best class (docs/zsseg.md)."""

from collections.abc import Collection

import numpy as np

from dataset.spec import IGNORE_INDEX


def pseudo_labels(
    scores: np.ndarray,
    truth: np.ndarray,
    seen: Collection[int],
    unseen_only: bool = True,
    threshold: float = 0.0,
    rejected: int = IGNORE_INDEX,
) -> np.ndarray:
    """(H, W) uint8 labels of pixels, from (C, H, W) scores of all classes.

    truth        (H, W) class indices; pixels of `seen` classes keep theirs
    unseen_only  the other pixels get the best of the other classes, else of all
    threshold    where the best class's softmax over all classes is below it, a pixel gets `rejected`
    rejected     255; the published code has the number of classes
    """
    kept = np.isin(truth, sorted(seen))
    shifted = np.exp(scores - scores.max(axis=0, keepdims=True), dtype=np.float64)
    shares = shifted / shifted.sum(axis=0, keepdims=True)
    if unseen_only:
        shares[sorted(seen)] = -1.0
    labels = shares.argmax(axis=0)
    labels[shares.max(axis=0) < threshold] = rejected
    return np.where(kept, truth, labels).astype(np.uint8)


def completed(masks: np.ndarray, truth: np.ndarray, seen: Collection[int], rejected: int = IGNORE_INDEX) -> np.ndarray:
    """(H, W) uint8 labels of pixels, from masks of all classes: where `truth` does not show a seen class, theirs.

    truth  (H, W), of which only the labels `seen` are used: neither the background nor where other classes are
    Pixels that the masks give a seen class which is not there get `rejected`.
    """
    wrong = np.isin(masks, sorted(seen))
    return np.where(np.isin(truth, sorted(seen)), truth, np.where(wrong, rejected, masks)).astype(np.uint8)
