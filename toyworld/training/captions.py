"""The tokens of captions, and the vocabulary that they need."""

import torch
from torch import Tensor

from clip.tokenizer import SimpleTokenizer
from toyworld.captions import CONCEPTS, TEMPLATES


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
