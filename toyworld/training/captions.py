"""Captions of what an image contains, and their tokens."""

import numpy as np
import torch
from torch import Tensor

from clip.tokenizer import SimpleTokenizer
from toyworld.spec import BACKGROUNDS, CLASSES, SPEC

CONCEPTS = (*CLASSES, *BACKGROUNDS)
TEMPLATES = (SPEC.template, "a photo of {}.", "a picture of {}.", "{}")
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


class Vocabulary:
    """The tokens that occur in captions, numbered 0..U-1.

    token_ids  (U,) int64, rows of CLIP's own vocabulary of `size` tokens
    """

    def __init__(self) -> None:
        self._tokenizer = SimpleTokenizer()
        self.size = self._tokenizer.vocab_size
        words = [template.format(name) for template in TEMPLATES for name in CONCEPTS]
        used = {token for text in [*words, "fish, car and grass"] for token in self._encode(text)}
        self.token_ids = torch.tensor(sorted(used))
        self._row = {token: row for row, token in enumerate(sorted(used))}

    def _encode(self, text: str) -> list[int]:
        return [self._tokenizer.sot_token_id, *self._tokenizer.encode(text), self._tokenizer.eot_token_id]

    def rows(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """(T, n) int64 rows of the captions, padded with 0, and (T,) int64 the place of each one's end."""
        encoded = [[self._row[token] for token in self._encode(text)] for text in texts]
        longest = max(map(len, encoded))
        padded = torch.tensor([rows + [0] * (longest - len(rows)) for rows in encoded])
        return padded, torch.tensor([len(rows) - 1 for rows in encoded])
