"""How often regions get their class."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

TOP = (1, 5)


def hits(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(3, C) int64 by class: regions, those whose class is the best, those where it is among the best five.

    logits   (N, C); the first of equal ones is the better
    classes  (N,) of the truth
    """
    order, count = np.argsort(-logits, axis=1, kind="stable"), logits.shape[1]
    right = [(order[:, :top] == classes[:, None]).any(axis=1) for top in TOP]
    return np.stack([np.bincount(classes[rows], minlength=count) for rows in (slice(None), *right)])


def accuracies(
    hits: np.ndarray, names: Sequence[str], sets: Mapping[str, Collection[int]] | None = None
) -> dict[str, float]:
    """Accuracies as fractions of 1, of the sums that `hits` returns.

    names  C names
    sets   indices of classes by the name of a set, such as base: the seen ones

    `macc_topK` is of all regions, `acc_topK_NAME` of those of a class, `mmacc_topK` the mean of the latter over all
    classes, in which a class without regions counts 0. `acc_top1_SET` and `acc_top1_w/o_SET` are of the regions of a
    set's classes and of all others; they are left out where there are none.
    """
    regions, result = hits[0], dict[str, float]()
    each = hits[1:] / np.maximum(regions, 1)
    for top, right, shares in zip(TOP, hits[1:], each):
        result[f"macc_top{top}"] = float(right.sum() / max(1, regions.sum()))
        result[f"mmacc_top{top}"] = float(shares.mean())
        result |= {f"acc_top{top}_{name}": float(share) for name, share in zip(names, shares)}
    for name, indices in (sets or {}).items():
        inside = np.isin(np.arange(len(names)), sorted(indices))
        for key, members in ((f"acc_top1_{name}", inside), (f"acc_top1_w/o_{name}", ~inside)):
            if regions[members].any():
                result[key] = float(hits[1][members].sum() / regions[members].sum())
    return result
