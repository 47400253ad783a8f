"""Prompts to embeddings, against open_clip's own text tower one prompt at a time."""

import open_clip
import pytest
import torch

from clip import text
from clip.load import Clip
from common.errors import UserError
from tests.support import tiny_model


@torch.no_grad()
def alone(clip: Clip, prompt: str) -> torch.Tensor:
    embedding = clip.model.encode_text(open_clip.tokenize([prompt]))[0]
    return embedding / embedding.norm()


def test_prompts_of_a_class_are_averaged_as_unit_vectors(tiny_clip: Clip) -> None:
    groups = [["a cat."], ["a dog.", "a photo of a puppy, running."], ["x", "y z", "a b c d"]]
    found = text.encode_prompts(tiny_clip, groups)
    for group, row in zip(groups, found):
        mean = torch.stack([alone(tiny_clip, prompt) for prompt in group]).mean(dim=0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)


def test_chunks_give_what_one_batch_gives(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[f"word {number}", "one more"] for number in range(4)]
    whole = text.encode_prompts(tiny_clip, groups)
    monkeypatch.setattr(text, "CHUNK", 3)
    assert torch.allclose(text.encode_prompts(tiny_clip, groups), whole, atol=1e-6)
    assert torch.allclose(torch.cat([text.encode_prompts(tiny_clip, [group]) for group in groups]), whole, atol=1e-6)


def test_no_prompts_give_no_rows(tiny_clip: Clip) -> None:
    assert text.encode_prompts(tiny_clip, []).shape == (0, 32)


def test_a_class_without_prompt_is_named(tiny_clip: Clip) -> None:
    with pytest.raises(UserError, match="class 1 "):
        text.encode_prompts(tiny_clip, [["a"], []])


@pytest.mark.parametrize("prompts", [["a clean origami person with clothes,people,human."], ["Two  Words\n", "é ü"]])
def test_tokens_are_open_clips(tiny_clip: Clip, prompts: list[str]) -> None:
    assert torch.equal(text.tokenize(tiny_clip, prompts), open_clip.tokenize(prompts))


def test_75_words_fit_and_76_do_not(tiny_clip: Clip) -> None:
    tokens = text.tokenize(tiny_clip, ["cat " * 75])
    assert tokens[0, -1] == 49407 and tokens[0, 0] == 49406  # end and start of text
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


def test_unknown_words_are_those_with_a_zero_row() -> None:
    model = tiny_model(text_layers=1)
    rows = model.token_embedding.weight
    for word in ("dog", "origami"):
        rows[open_clip.tokenize([word])[0, 1:3][open_clip.tokenize([word])[0, 1:3] < 49406]] = 0
    clip = Clip(model, "small vocabulary", "quick_gelu", "0")
    assert text.unknown_words(clip, ["a clean origami dog.", "a Dog", "cat, tree"]) == ["dog", "origami"]
    assert text.unknown_words(clip, ["a cat"]) == []
