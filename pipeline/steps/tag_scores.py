"""Step 0's scores: tagged labels against the true ones, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TagScores:
    """What a run of tagging is worth; shares in [0, 1].

    map        mean average precision over the classes that the truth shows at all
    ap         average precision by class; None for a class that is in no image
    precision  share of an image's tags that are true, mean over images
    recall     share of an image's true labels that were tagged, mean over images that have any
    f1         of precision and recall per image (2 * hits / (tags + true)), mean over images
    exact      share of images whose tags are the true labels
    """

    images: int
    map: float
    ap: tuple[float | None, ...]
    precision: float
    recall: float
    f1: float
    exact: float


def tag_scores(
    truth: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], scores: Sequence[np.ndarray]
) -> TagScores:
    """Scores of I images.

    truth, labels  I sequences of 0-based class indices
    scores         I arrays (K,), by which the average precisions rank the images
    Raises ValueError when there is no image.
    """
    if not len(truth):
        raise ValueError("no image to score")
    ranked = np.stack(list(scores)).astype(np.float64)  # (I, K)
    is_true = np.zeros(ranked.shape, bool)
    for row, present in zip(is_true, truth):
        row[list(present)] = True
    ap = tuple(average_precision(mask, column) for mask, column in zip(is_true.T, ranked.T))
    shown = [value for value in ap if value is not None]
    pairs = [(set(true), set(tags)) for true, tags in zip(truth, labels)]
    return TagScores(
        images=len(pairs),
        map=float(np.mean(shown)) if shown else 0.0,
        ap=ap,
        precision=_mean([len(true & tags) / len(tags) if tags else 0.0 for true, tags in pairs]),
        recall=_mean([len(true & tags) / len(true) for true, tags in pairs if true]),
        f1=_mean([2 * len(true & tags) / (len(true) + len(tags)) if true or tags else 1.0 for true, tags in pairs]),
        exact=_mean([float(true == tags) for true, tags in pairs]),
    )


def average_precision(is_true: np.ndarray, scores: np.ndarray) -> float | None:
    """The area under the precision-recall steps of one class; None when it is in no image.

    is_true  (I,) bool
    scores   (I,); images of equal score enter together, so that the order of the images does not matter
    """
    if not is_true.any():
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(is_true[order])
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits, ranks = hits[last_of_tie], np.flatnonzero(last_of_tie) + 1
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / ranks).sum() / is_true.sum())


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
