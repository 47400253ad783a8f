"""CLIP's tokenizer: text to the ids of byte pair pieces (OpenAI's CLIP, simple_tokenizer.py).

The vocabulary is the file that the open_clip package brings. It is read when a text is first encoded.
"""

import gzip
import html
from functools import cache
from itertools import pairwise

from clip.hub import package_file

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
SPECIAL = ("<start_of_text>", "<end_of_text>")
SIZE = 49408  # 256 bytes, 256 bytes that end a word, the merges, the special tokens
WORD_END = "</w>"
WORDS = "|".join(SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Pair = tuple[str, str]


class SimpleTokenizer:
    """Token ids of texts, the same as those of open_clip's class of this name."""

    vocab_size = SIZE
    sot_token_id, eot_token_id = SIZE - 2, SIZE - 1  # start and end of text

    def words(self, text: str) -> list[str]:
        """The words of a text, cleaned and in lower case: letters, single digits, runs of other signs."""
        import ftfy
        import regex

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        return regex.findall(WORDS, " ".join(text.split()).lower(), regex.IGNORECASE)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        return [token for word in self.words(text) for token in _word_ids(word)]


@cache
def _byte_signs() -> list[str]:
    """A printable sign for each of the 256 bytes: Latin letters stand for themselves, the others come after."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@cache
def _tables() -> tuple[dict[str, int], dict[Pair, int]]:
    """The id of each piece, and the rank of each merge: lower ranks are merged first."""
    lines = gzip.decompress(package_file(VOCABULARY_FILE).read_bytes()).decode("utf-8").split("\n")
    merges: list[Pair] = [tuple(line.split()) for line in lines[1 : SIZE - 512 - 2 + 1]]  # type: ignore[misc]
    signs = sorted(_byte_signs())  # in the order of their numbers, as OpenAI's list has them
    pieces = [*signs, *(sign + WORD_END for sign in signs), *map("".join, merges), *SPECIAL]
    return dict(zip(pieces, range(SIZE))), dict(zip(merges, range(SIZE)))


@cache
def _word_ids(word: str) -> tuple[int, ...]:
    ids, ranks = _tables()
    if word in SPECIAL:
        return (ids[word],)
    pieces = [_byte_signs()[byte] for byte in word.encode("utf-8")]
    pieces[-1] += WORD_END
    while len(pieces) > 1:
        first = min(pairwise(pieces), key=lambda pair: ranks.get(pair, SIZE))
        if first not in ranks:
            break
        merged: list[str] = []
        while pieces:  # each occurrence of the pair, from the left, becomes one piece
            length = 2 if tuple(pieces[:2]) == first else 1
            merged.append("".join(pieces[:length]))
            pieces = pieces[length:]
        pieces = merged
    return tuple(ids[piece] for piece in pieces)
