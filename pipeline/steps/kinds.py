"""What the values of maps can be, and how each kind becomes probabilities.

cam          in [0, 1], each map by its own; the background is what they leave of 1 (pipeline/steps/masks.py)
logit        any number, the background's at 0; without background class only differences count
probability  in [0, 1], of sum at most 1, the rest of which is the background's
"""

import numpy as np

KINDS = ("cam", "logit", "probability")


def to_probabilities(maps: np.ndarray, kind: str, has_background: bool = True) -> np.ndarray:
    """Logits or probabilities (k, ...) to probabilities of sum 1, the background's first where there is one.

    Returns (k+1, ...), or (k, ...) in a data set without background class.
    """
    if not len(maps):
        return np.ones((int(has_background), *maps.shape[1:]), np.float32)
    if kind == "logit":
        logits = np.concatenate([np.zeros_like(maps[:1]), maps]) if has_background else maps
        weights = np.exp(logits - logits.max(axis=0))
    elif has_background:
        classes = maps.clip(0, 1)
        rest = (1 - classes.sum(axis=0, keepdims=True)).clip(0, 1)
        weights = np.concatenate([rest, classes])
    else:
        weights = maps.clip(0, 1) + np.float32(1e-7)  # all may be 0
    return weights / weights.sum(axis=0)


def to_heat(maps: np.ndarray, kind: str) -> np.ndarray:
    """Maps (k, ...) of any kind to [0, 1], for pictures."""
    return to_probabilities(maps, kind)[1:] if kind == "logit" else maps
