"""Class probabilities of a network and of CLIP, together (Xu et al., ECCV 2022, section 3.4)."""

from collections.abc import Collection, Sequence

import numpy as np


def ensemble(network: np.ndarray, clip: np.ndarray, numbers: np.ndarray, seen: np.ndarray, weight: float) -> np.ndarray:
    """(Q, k) scores of Q regions.

    network  (Q, k) probabilities by a network that learned the seen classes; what is left to 1 is "no object"
    clip     (Q', k) probabilities by CLIP
    numbers  (Q',) of the regions that CLIP saw; those of the others count as 1
    seen     (k,) bool
    weight   of the network for seen classes, and of CLIP for the others. 0 and below: CLIP alone, and regions that it
             did not see have no score
    """
    by_clip = np.full(network.shape, 0 if weight <= 0 else 1, np.float32)
    by_clip[numbers] = clip
    if weight <= 0:
        return by_clip
    of_network, of_clip = np.where(seen, weight, 1 - weight), np.where(seen, 1 - weight, weight)
    return (network ** of_network.astype(np.float32) * by_clip ** of_clip.astype(np.float32)).astype(np.float32)


def of_classes(probabilities: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """(Q, K) probabilities to (Q, k): those of the classes that are asked for, when the others cannot be.

    What is left to 1, "no object", still competes.
    """
    chosen = probabilities[:, list(classes)]
    others = probabilities.sum(axis=1, keepdims=True) - chosen.sum(axis=1, keepdims=True)
    return chosen / np.maximum(1 - others, 1e-6)


def seen_classes(names: Sequence[str], unseen: Collection[int], learned: Collection[str] | None) -> tuple[int, ...]:
    """Indices of the classes of a data set that a network is taken to know.

    unseen   indices by the data set's split; without one nothing is seen, as published for other data sets than that
             of the training
    learned  names of the classes that it was trained on, in place of the split; None: unknown
    """
    if not unseen:
        return ()
    known = [index for index in range(len(names)) if index not in unseen]
    return tuple(known if learned is None else [index for index, name in enumerate(names) if name in learned])
