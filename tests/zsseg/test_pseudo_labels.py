"""Pseudo labels against a loop over pixels."""

import math

import numpy as np
import pytest

from zsseg.pseudo_labels import completed, pseudo_labels


@pytest.mark.parametrize(("unseen_only", "threshold", "rejected"), [(True, 0.3, 255), (False, 0.3, 5), (True, 0, 255)])
def test_pseudo_labels_of_each_pixel(unseen_only: bool, threshold: float, rejected: int) -> None:
    rng = np.random.default_rng(3)
    scores, truth = rng.normal(size=(5, 6, 7)).astype(np.float32), rng.choice([0, 1, 2, 3, 4, 255], (6, 7))
    found = pseudo_labels(scores, truth, (0, 2, 3), unseen_only, threshold, rejected)
    wanted = np.zeros((6, 7), np.uint8)
    for place in np.ndindex(6, 7):
        values = [math.exp(scores[(c, *place)]) for c in range(5)]
        allowed = [1, 4] if unseen_only else range(5)
        best = max(allowed, key=lambda c: values[c])
        sure = values[best] / sum(values) >= threshold
        wanted[place] = truth[place] if truth[place] in (0, 2, 3) else best if sure else rejected
    assert found.dtype == np.uint8 and np.array_equal(found, wanted)
    assert threshold == 0 or (found == rejected).any()


def test_masks_complete_what_is_labelled() -> None:
    """Background 0, seen 1 and 2, unseen 3: every pair of a mask's and a true label."""
    masks, truth = np.meshgrid([0, 1, 2, 3, 255], [0, 1, 2, 3, 255])
    found = completed(masks.astype(np.uint8), truth.astype(np.uint8), (1, 2))
    assert found.dtype == np.uint8
    for place in np.ndindex(5, 5):
        guess, true = int(masks[place]), int(truth[place])
        if true in (1, 2):
            assert found[place] == true
        else:  # where an unseen class is, and where the background, must not be told
            assert found[place] == {0: 0, 1: 255, 2: 255, 3: 3, 255: 255}[guess]
