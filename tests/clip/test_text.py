"""Prompts to embeddings, against open_clip's own text tower one prompt at a time."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from clip import text
from clip.load import Clip
from common.errors import UserError
from tests.clip.oracle import twin_of
from tests.support import clip_from, tiny_model


@pytest.fixture(scope="module")
def twin() -> CLIP:
    return twin_of(tiny_model().state_dict())


@torch.no_grad()
def test_prompts_of_a_class_are_averaged_as_unit_vectors(tiny_clip: Clip, twin: CLIP) -> None:
    groups = [["a cat."], ["a dog.", "a photo of a puppy, running."], ["x", "y z", "a b c d"]]
    found = text.encode_prompts(tiny_clip, groups)
    for group, row in zip(groups, found):
        alone = [twin.encode_text(open_clip.tokenize([prompt]), normalize=True)[0] for prompt in group]
        mean = torch.stack(alone).mean(dim=0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)
    assert text.encode_prompts(tiny_clip, []).shape == (0, 32)


def test_chunks_give_what_one_batch_gives(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[f"word {number}", "one more"] for number in range(4)]
    whole = text.encode_prompts(tiny_clip, groups)
    monkeypatch.setattr(text, "CHUNK", 3)
    assert torch.allclose(text.encode_prompts(tiny_clip, groups), whole, atol=1e-6)
    assert torch.allclose(torch.cat([text.encode_prompts(tiny_clip, [group]) for group in groups]), whole, atol=1e-6)


def test_a_class_without_prompt_is_named(tiny_clip: Clip) -> None:
    with pytest.raises(UserError, match="class 1 "):
        text.encode_prompts(tiny_clip, [["a"], []])


def test_75_words_fit_and_76_do_not(tiny_clip: Clip) -> None:
    prompts = ["a clean origami person with clothes,people,human.", "é ü", "cat " * 75]
    assert torch.equal(text.tokenize(tiny_clip, prompts), open_clip.tokenize(prompts))
    with pytest.raises(UserError, match=r"cat cat.*76 tokens.*takes 75"):
        text.tokenize(tiny_clip, ["dog", "cat " * 76])


@pytest.mark.parametrize(
    ("template", "names", "prompts"),
    [
        ("a clean origami {}.", [["cat"]], [["a clean origami cat."]]),
        ("{}", [["a", "b"], ["c"]], [["a", "b"], ["c"]]),
        ("{0} of {}", [["{x}"]], [["{0} of {x}"]]),  # no str.format, which would take other braces for fields
    ],
)
def test_template_is_filled_at_its_braces(template: str, names: list[list[str]], prompts: list[list[str]]) -> None:
    assert text.fill_template(template, names) == prompts


def test_template_without_braces_is_refused() -> None:
    with pytest.raises(UserError, match="a photo"):
        text.fill_template("a photo", [["cat"]])


@pytest.mark.parametrize("built", [False, True])
def test_unknown_words_are_those_with_a_zero_row(built: bool) -> None:
    state = dict(tiny_model(text_layers=1).state_dict())
    words = open_clip.tokenize(["dog", "origami"])[:, 1:].flatten()
    state["token_embedding.weight"][words[(words > 0) & (words < 49406)]] = 0
    clip = clip_from(state)
    if built:
        clip.texts.tower(clip.device)
    assert text.unknown_words(clip, ["a clean origami dog.", "a Dog", "cat, tree"]) == ["dog", "origami"]
    assert text.unknown_words(clip, ["a cat"]) == []


def test_a_model_that_knows_all_tokens_is_asked_without_a_tokenizer(
    tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "SimpleTokenizer", None)
    assert text.unknown_words(tiny_clip, ["a cat"]) == []
