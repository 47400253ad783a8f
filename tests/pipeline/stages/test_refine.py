"""The steps of --refine by themselves; what they do to masks is in tests/cli/test_proposals.py."""

import numpy as np

from pipeline.stages.refine import moved_by_colours
from tests.support import photo


def test_pamr_in_strips_is_pamr_of_the_whole() -> None:
    """With three strips, of which the middle one has rows of both others around it."""
    rgb = photo((430, 12), 3)
    scores = np.random.default_rng(0).random((2, 430, 12)).astype(np.float32)
    whole, strips = moved_by_colours(scores, rgb, "cpu"), moved_by_colours(scores, rgb, "cpu", at_once=1)
    assert np.abs(whole - strips).max() < 1e-6 and np.abs(whole - scores).max() > 0.1
