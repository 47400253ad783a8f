"""Captions: sentences that name what an image contains, or a part of it."""

import numpy as np

from dataset.spec import DatasetSpec
from toyworld.names import BACKGROUNDS, CLASSES

CONCEPTS = (*CLASSES, *BACKGROUNDS)
TEMPLATES = (DatasetSpec.template, "a photo of {}.", "a picture of {}.", "{}")
_CAPTIONS = 1  # what a random number is for
# How often a caption names everything, all objects, one object, one background.
NAMED_SHARES = {"all": 0.35, "objects": 0.2, "object": 0.3, "background": 0.15}


def sentence(names: list[str]) -> str:
    """'fish', 'fish and car', 'fish, car and grass'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def content(rng: np.random.Generator, present: np.ndarray) -> np.ndarray:
    """What a caption names, a random part of what is present: (C,) bool out of (C,) bool, never empty."""
    indices = np.flatnonzero(present)
    objects, backgrounds = indices[indices < len(CLASSES)], indices[indices >= len(CLASSES)]
    named = {
        "all": indices,
        "objects": objects,
        "object": rng.permutation(objects)[:1],
        "background": rng.permutation(backgrounds)[:1],
    }[str(rng.choice(list(NAMED_SHARES), p=list(NAMED_SHARES.values())))]
    chosen = np.zeros_like(present)
    chosen[named] = True
    return chosen


def caption(rng: np.random.Generator, named: np.ndarray) -> str:
    """A sentence that names the concepts of (C,) bool in random order."""
    names = [CONCEPTS[index] for index in rng.permutation(np.flatnonzero(named))]
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(sentence(names))


def captions_of(seed: int, index: int, present: np.ndarray, count: int) -> list[str]:
    """So many captions of scene `index` of a set, which name random parts of what is present, (C,) bool."""
    rng = np.random.default_rng([seed, index, _CAPTIONS])
    return [caption(rng, content(rng, present)) for _ in range(count)]
