"""Learned vectors that are the embeddings of words give what the sentence with these words gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.parity.parts import Place
from benchmarks.parity.zsseg import prompts as parity
from clip.learned_prompts import LearnedPrompts, encode_names, read_learned_prompts, write_learned_prompts
from clip.load import Clip
from clip.templates import Words
from clip.text import encode_prompts
from clip.text_cache import cached_words
from clip.tokenizer import SimpleTokenizer
from common.errors import UserError
from tests.support import SHARED, clip_from, tiny_model

GROUPS = [["cat", "a small kitten"], ["dog"], ["dining table"]]


def vectors(clip: Clip, words: str) -> torch.Tensor:
    """The embeddings of the words' tokens."""
    return clip.texts.token_embeddings()[SimpleTokenizer().encode(words)].float()


@pytest.mark.parametrize(("before", "after"), [("a clean origami", ""), ("there is a", "in the scene"), ("", "")])
def test_vectors_of_words_give_what_the_sentence_gives(before: str, after: str, tiny_clip: Clip) -> None:
    learned = LearnedPrompts.of(vectors(tiny_clip, before), vectors(tiny_clip, after))
    wanted = encode_prompts(tiny_clip, [[f"{before} {name} {after}." for name in group] for group in GROUPS])
    assert torch.allclose(encode_names(tiny_clip, GROUPS, learned), wanted, atol=1e-6)


def test_other_vectors_are_other_files_of_the_cache(tiny_clip: Clip) -> None:
    words, found = Words(GROUPS, ("a {}.",)), []
    for prefix in ("the", "an old", None, "the"):
        learned = None if prefix is None else LearnedPrompts.of(vectors(tiny_clip, prefix), torch.zeros(0, 64))
        found.append(cached_words(replace(tiny_clip, learned=learned), words))
        template = "a {}." if prefix is None else f"{prefix} {{}}."
        wanted = encode_prompts(tiny_clip, Words(GROUPS, (template,)).sentences())
        assert torch.allclose(found[-1], wanted, atol=1e-6), prefix
    assert torch.equal(found[0], found[3])


def test_a_file_holds_what_was_written(tiny_clip: Clip, tmp_path: Path) -> None:
    prefix, suffix = torch.randn(3, 64), torch.randn(2, 64)
    write_learned_prompts(tmp_path / "p.safetensors", tiny_clip, prefix, suffix, {"dataset": "voc20"})
    found = read_learned_prompts(tmp_path / "p.safetensors", tiny_clip)
    assert torch.equal(found.prefix, prefix) and torch.equal(found.suffix, suffix)
    assert found.fingerprint == LearnedPrompts.of(prefix, suffix).fingerprint
    assert found.fingerprint != LearnedPrompts.of(torch.cat([prefix, suffix[:1]]), suffix[1:]).fingerprint


def test_a_checkpoint_of_the_reference(tiny_clip: Clip, tmp_path: Path) -> None:
    """Two learners: that of the regions, which comes later, counts."""
    prefix = torch.randn(3, 64)
    tensors = {
        "clip_adapter.prompt_learner.prefix_prompt": torch.zeros(3, 64),
        "_region_clip_adapter.prompt_learner.prefix_prompt": prefix,
        "_region_clip_adapter.prompt_learner.start_signal": vectors(tiny_clip, "").new_zeros(1, 64),
        "backbone.res2.0.conv1.weight": torch.zeros(2),
    }
    tensors["_region_clip_adapter.prompt_learner.start_signal"] = tiny_clip.texts.token_embeddings()[49406][None]
    torch.save({"model": tensors, "iteration": 5}, tmp_path / "model_final.pth")
    found = read_learned_prompts(tmp_path / "model_final.pth", tiny_clip)
    assert torch.equal(found.prefix, prefix) and len(found.suffix) == 0


def broken(kind: str, clip: Clip, path: Path) -> None:
    learner = "clip_adapter.prompt_learner.prefix_prompt"
    contents = {
        "width": {"model": {learner: torch.zeros(4, 32)}},
        "none": {"model": {"backbone.weight": torch.zeros(4)}},
        "nan": {"model": {learner: torch.full((4, 64), torch.nan)}},
        "vector": {"model": {learner: torch.zeros(64)}},
        "list": [torch.zeros(4, 64)],
        "code": {"model": {learner: torch.nn.Linear(2, 2)}},
    }
    if kind in contents:
        torch.save(contents[kind], path)
    elif kind == "another":
        write_learned_prompts(
            path, clip_from(tiny_model(seed=1).state_dict()), torch.zeros(4, 64), torch.zeros(0, 64), {}
        )
        path.rename(path.with_suffix(".safetensors"))
    elif kind == "text":
        path.write_text("not weights")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("width", "prompts of a text width of 32, but the text tower of tiny has 64; pass the CLIP"),
        ("another", "learned with another CLIP than tiny, although both have a text width of 64"),
        ("none", "holds no learned prompts"),
        ("nan", "no matrix of finite numbers"),
        ("vector", "no matrix of finite numbers"),
        ("list", "holds a list, not weights"),
        ("code", "would run code on loading"),
        ("text", "cannot be read as weights"),
        ("missing", "no such weight file"),
    ],
)
def test_what_holds_no_prompts_of_this_clip_is_refused_in_a_line(
    kind: str, said: str, tiny_clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.pth"
    broken(kind, tiny_clip, path)
    path = path.with_suffix(".safetensors") if kind == "another" else path
    with pytest.raises(UserError, match=said) as caught:
        read_learned_prompts(path, tiny_clip)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_that_does_not_fit_is_refused(tiny_clip: Clip) -> None:
    learned = LearnedPrompts.of(torch.zeros(16, 64), torch.zeros(0, 64))
    fits = ["cat " * 58]
    assert torch.isfinite(encode_names(tiny_clip, [fits], learned)).all()
    with pytest.raises(UserError, match="59 tokens, but 16 learned vectors leave room for 58; shorten it"):
        encode_names(tiny_clip, [["cat " * 59]], learned)
    with pytest.raises(UserError, match="class 1 has no prompt"):
        encode_names(tiny_clip, [["cat"], []], learned)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text", "prompt layout"])
def test_the_references_numbers(part: str, golden: Path, voc_mini: Path) -> None:
    place = Place(SHARED / "golden_zsseg", voc_mini, golden / "clip.pt")
    rows = list(parity.PARTS[part].rows(place))
    assert len(rows) >= 5 and all(row.agrees for row in rows), rows
