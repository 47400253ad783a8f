"""Precision of what is kept against how much is kept, for every confidence threshold.

The CRF's probabilities are not stored, so they are computed again, for a sample of the images.
"""

from dataclasses import dataclass, field

import numpy as np

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class CurvePoint:
    """At a threshold: the share of the scored pixels that is kept, and the share of those that is right."""

    threshold: float
    coverage: float
    precision: float


@dataclass
class Curve:
    """Scored pixels counted by the highest threshold that their confidence reaches; exact, whatever their number.

    written  the threshold the masks were made with; it joins the list
    """

    written: float
    images: int = 0
    thresholds: tuple[float, ...] = ()
    counts: np.ndarray = field(init=False)  # (2, T): wrong and right pixels

    def __post_init__(self) -> None:
        self.thresholds = tuple(sorted({*THRESHOLDS, self.written}))
        self.counts = np.zeros((2, len(self.thresholds)), np.int64)

    def add(self, labels: np.ndarray, probabilities: np.ndarray, truth: np.ndarray, num_labels: int) -> None:
        """One image: (H, W) labels, (k+1, H, W) probabilities, (H, W) truth."""
        scored = truth < num_labels
        confidence = probabilities.max(axis=0)[scored]
        steps = np.array(self.thresholds, confidence.dtype)
        reached = np.searchsorted(steps, confidence, side="right") - 1
        right = (labels == truth)[scored].astype(np.int64)
        self.counts += np.bincount(right * len(steps) + reached, minlength=2 * len(steps)).reshape(2, -1)
        self.images += 1

    def points(self) -> list[CurvePoint]:
        """From the lowest threshold to the highest, without those that nothing reaches."""
        kept = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1]
        total = int(self.counts.sum())
        return [
            CurvePoint(threshold, float((wrong + right) / total), float(right / (wrong + right)))
            for threshold, wrong, right in zip(self.thresholds, *kept)
            if wrong + right
        ]
