"""The score of an image, kept in its mask: a mask that is there is scored again without the CRF.

Scores are of the labels before the 255s, which a mask does not hold. What is kept is their confusion matrix, with the
identity of the ground truth that it counts (common/provenance.py).
"""

from pathlib import Path

import numpy as np

from common.errors import UserError
from common.provenance import parse_record, record_text, source_of
from dataset.mask_png import mask_score


def score_text(confusion: np.ndarray, truth: Path, how: str = "") -> str:
    """A confusion matrix (1, C, C+1) as text, with the ground-truth file that it counts."""
    cells = np.flatnonzero(confusion)
    counts = {str(cell): int(confusion.flat[cell]) for cell in cells}
    return record_text({"truth": source_of(truth) + how, "labels": confusion.shape[1], "counts": counts})


def kept_confusion(mask: Path, truth: Path, num_labels: int, how: str = "") -> np.ndarray | None:
    """The confusion matrix (1, C, C+1) int64 that a mask keeps; None without one for this ground truth and C labels."""
    confusion = np.zeros((1, num_labels, num_labels + 1), np.int64)
    try:
        record = parse_record(mask_score(mask))
        if record["labels"] != num_labels or record["truth"] != source_of(truth) + how:
            return None
        for cell, count in record["counts"].items():
            confusion.flat[int(cell)] = int(count)
    except (UserError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        return None
    return confusion if (confusion >= 0).all() else None
