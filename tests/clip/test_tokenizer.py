"""Token ids against open_clip's tokenizer."""

import random

import open_clip
from open_clip.tokenizer import SimpleTokenizer as Theirs

from clip.templates import IMAGENET80
from clip.tokenizer import SimpleTokenizer

SIGNS = "abcdefghij KLMNO 0123456789 .,!?'\"<>&;_-éüß漢字🙂\t\n\x00\u200b"
ODD = ["", "don't we'll", "<start_of_text> x <END_of_text>", "&amp;amp;lt; cafÃ©", "  Two  Words\n", "x" * 500]


def test_ids_and_words_are_open_clips() -> None:
    ours, theirs, chance = SimpleTokenizer(), Theirs(), random.Random(0)
    made_up = ["".join(chance.choices(SIGNS, k=chance.randrange(60))) for _ in range(1000)]
    for text in [*IMAGENET80, *ODD, *made_up]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.words(text) == theirs.pat.findall(theirs.clean_fn(text)), text
    assert ours.vocab_size == theirs.vocab_size
    assert (ours.sot_token_id, ours.eot_token_id) == (theirs.sot_token_id, theirs.eot_token_id)


def test_templates_are_openais() -> None:
    assert list(IMAGENET80) == [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
