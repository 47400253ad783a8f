"""The curve over confidence thresholds against a loop over pixels."""

import numpy as np
import pytest

from pipeline.steps.masks import confident
from report.curve import THRESHOLDS, Curve


def test_points_are_those_of_masks_written_with_each_threshold() -> None:
    rng = np.random.default_rng(0)
    curve, images = Curve(written=0.42), []
    for _ in range(3):
        probabilities = rng.dirichlet([0.3, 0.3, 0.3], (13, 11)).transpose(2, 0, 1).astype(np.float32)
        labels = probabilities.argmax(axis=0).astype(np.uint8)
        truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), labels.shape)
        probabilities[:, 0, 0] = (0.95, 0.05, 0)  # on a threshold: kept
        labels[0, 0], truth[0, 0] = 0, 0
        curve.add(labels, probabilities, truth, 3)
        images.append((labels, probabilities, truth))
    points = curve.points()
    assert [point.threshold for point in points] == sorted([*THRESHOLDS, 0.42]) and curve.images == 3
    for point in points:
        total = kept = right = 0
        for labels, probabilities, truth in images:
            mask = confident(labels, probabilities, point.threshold)
            for given, true in zip(mask.ravel().tolist(), truth.ravel().tolist()):
                total += true != 255
                kept += true != 255 and given != 255
                right += true != 255 and given == true
        assert point.coverage == pytest.approx(kept / total) and point.precision == pytest.approx(right / kept)


def test_thresholds_that_nothing_reaches_are_left_out() -> None:
    curve = Curve(written=0.95)
    curve.add(np.zeros((2, 2), np.uint8), np.full((2, 2, 2), 0.5, np.float32), np.zeros((2, 2), np.uint8), 2)
    assert [point.threshold for point in curve.points()] == [0.0, 0.5]


def test_an_empty_curve_has_no_points() -> None:
    assert Curve(written=0.95).points() == []
