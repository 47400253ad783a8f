"""What the values of maps can be, and how each kind becomes probabilities.

cam          in [0, 1], each map by its own; the background is what they leave of 1 (pipeline/steps/masks.py)
logit        any number, the background's at 0; without background class only differences count
probability  in [0, 1], of sum at most 1, the rest of which is the background's
score        as logits, but of differences so small that their softmax is all but flat: the largest wins the pixel, and
             where probabilities matter they are of SHARPNESS times the scores. Files keep them in float32
"""

import numpy as np

KINDS = ("cam", "logit", "probability", "score")
BOUNDLESS = ("logit", "score")  # any numbers, the background's at 0
SHARPNESS = 10.0  # so that a score of 0.5 wins against 0 with a probability of 0.99


def to_probabilities(maps: np.ndarray, kind: str, has_background: bool = True) -> np.ndarray:
    """Logits, scores or probabilities (k, ...) to probabilities of sum 1, the background's first where there is one.

    Returns (k+1, ...), or (k, ...) in a data set without background class.
    """
    if not len(maps):
        return np.ones((int(has_background), *maps.shape[1:]), np.float32)
    if kind in BOUNDLESS:
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
    return to_probabilities(sharpened(maps, kind), kind)[1:] if kind in BOUNDLESS else maps


def sharpened(maps: np.ndarray, kind: str) -> np.ndarray:
    """The maps of which probabilities are made: scores are enlarged, which leaves the largest the largest."""
    return maps * np.float32(SHARPNESS) if kind == "score" else maps


def stored(maps: np.ndarray, kind: str) -> np.ndarray:
    """The maps in the type in which files keep them; whole numbers, such as groups, stay as they are."""
    dtype = np.float32 if kind == "score" else np.float16
    return maps.astype(dtype) if maps.dtype.kind == "f" else maps
