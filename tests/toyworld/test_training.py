"""Training: captions, a tiny run, the file it writes, and that no mask can reach a loss."""

import inspect
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from clip.load import load_clip
from clip.vision import embed_patches, run_block
from scripts import train_toyworld_clip
from toyworld.captions import CONCEPTS, TEMPLATES, caption, content
from toyworld.spec import BACKGROUNDS, CLASSES, WEIGHTS
from toyworld.training import data, losses, train
from toyworld.training.captions import Vocabulary
from toyworld.training.export import deflated, openai_state_dict, write_weights
from toyworld.training.model import Architecture, ToyClip
from training.board import read_log

pytestmark = pytest.mark.slow

TINY = Architecture(resolution=64, patch=16, width=64, layers=3, text_layers=1, embedding=32)
PHASES = (
    data.Phase(7, ((64, 64, 48),), (1.0,), (0.35, 0.45), steps=24, batch=16, weights=losses.Weights(affinity=0.0)),
    data.Phase(8, ((64, 80, 16),), (0.5, 0.5), (0.3, 0.4), steps=2, batch=8),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ToyClip, Vocabulary, list[dict[str, float]]]:
    folder = tmp_path_factory.mktemp("trained")
    return *train.train(TINY, PHASES, 0, 1, folder), read_log(folder)


# --- captions -------------------------------------------------------------------------------------


def test_captions_tell_only_what_is_present() -> None:
    rng = np.random.default_rng(0)
    present = np.isin(CONCEPTS, ("fish", "car", "sky", "sand"))
    told = [content(rng, present) for _ in range(200)]
    assert all(row.any() and not (row & ~present).any() for row in told)
    assert {int(row.sum()) for row in told} == {1, 2, 4}
    assert all(name in caption(rng, present) for name in ("fish", "car", "sky", "sand"))


def test_vocabulary_covers_every_caption_and_ends_where_it_says() -> None:
    words = Vocabulary()
    texts = [template.format("fish, car and grass") for template in TEMPLATES] + ["tree"]
    rows, ends = words.rows(texts)
    tokens = words.token_ids[rows]
    ours = open_clip.tokenize(texts)
    for i, end in enumerate(ends):
        assert tokens[i, : end + 1].tolist() == ours[i, : end + 1].tolist()
        assert ours[i, end] == ours[i].max() and not ours[i, end + 1 :].any()


# --- no mask --------------------------------------------------------------------------------------


def test_masks_never_leave_the_drawing() -> None:
    assert [field.name for field in fields(data.Captioned)] == ["images", "present"]
    for module in (train, losses):
        code = "\n".join(line for line in inspect.getsource(module).splitlines() if "masked_fill" not in line)
        assert ".mask" not in code
    assert ".mask" not in inspect.getsource(data)


def test_images_and_words_belong_together() -> None:
    style = data.Style((64, 64), (80, 80), (0.5, 0.5), (0.3, 0.4), avoid_multiples_of=None)
    (drawn,) = data.draw_phase(data.Phase(3, ((64, 80, 4),), style.counts, style.radii, 1), processes=1)
    scene = data.draw_scene(3, 2, style)
    assert drawn.images.shape == (4, 64, 80, 3) and np.array_equal(drawn.images[2], scene.image)
    assert {CONCEPTS[i] for i in np.flatnonzero(drawn.present[2])} == {*scene.classes, *scene.backgrounds}


# --- a tiny run -----------------------------------------------------------------------------------


def test_a_few_steps_reduce_the_losses(trained: tuple[ToyClip, Vocabulary, list[dict[str, float]]]) -> None:
    seen = trained[2]
    for name in ("cls", "mean", "pooled", "values", "unnamed"):
        early, late = (np.mean([values[name] for values in part]) for part in (seen[:4], seen[20:24]))
        assert late < early, name
    assert "affinity" not in seen[0] and seen[-1]["affinity"] > 0


@pytest.mark.parametrize("broken_at", [10, 24])
def test_same_seed_same_file(
    trained: tuple[ToyClip, Vocabulary, list[dict[str, float]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken_at: int,
) -> None:
    """Also when the run was interrupted in the first phase, or between the two."""
    model, words, seen = trained
    monkeypatch.setattr(train, "SAVE_EVERY", 2)

    def crash(self: data.Lessons) -> Iterator[data.Lesson]:
        yield from islice(original(self), broken_at)
        raise ConnectionAbortedError

    original = data.Lessons.__iter__
    with monkeypatch.context() as patch, pytest.raises(ConnectionAbortedError):
        patch.setattr(data.Lessons, "__iter__", crash)
        train.train(TINY, PHASES, 0, 1, tmp_path)
    again, _ = train.train(TINY, PHASES, 0, 1, tmp_path)
    assert read_log(tmp_path) == seen
    assert deflated(openai_state_dict(model, words)) == deflated(openai_state_dict(again, words))


def test_words_are_told_apart_before_images_are_seen() -> None:
    torch.manual_seed(0)
    words = Vocabulary()
    model = ToyClip(TINY, len(words.token_ids))
    train.teach_words(model, words, np.random.default_rng(0))
    with torch.no_grad():
        texts = model.encode_text(*words.rows([TEMPLATES[0].format(name) for name in CONCEPTS]))
    assert (texts @ texts.T - torch.eye(len(CONCEPTS))).abs().max() < 0.5


def test_open_clip_computes_the_same(
    trained: tuple[ToyClip, Vocabulary, list[dict[str, float]]], tmp_path: Path
) -> None:
    """The written file, in open_clip's own model with QuickGELU, gives our features."""
    model, words, _ = trained
    write_weights(tmp_path / "clip.pt", openai_state_dict(model, words))
    state = torch.load(tmp_path / "clip.pt", weights_only=True)
    theirs = open_clip.model.build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32).float().eval()
    with torch.no_grad():
        images, texts = torch.randn(2, 3, 64, 64), ["a clean origami fish.", "sky"]
        ours = F.normalize(model.visual(images).image, dim=-1)
        torch.testing.assert_close(theirs.encode_image(images, normalize=True), ours, atol=5e-3, rtol=0)
        tokens = open_clip.tokenize(texts)
        torch.testing.assert_close(
            theirs.encode_text(tokens, normalize=True), model.encode_text(*words.rows(texts)), atol=5e-3, rtol=0
        )


def test_every_block_learns(trained: tuple[ToyClip, Vocabulary, list[dict[str, float]]]) -> None:
    """No part is zero, and none kept what it was drawn with."""
    torch.manual_seed(0)
    drawn = ToyClip(TINY, len(trained[1].token_ids))
    for (name, before), after in zip(drawn.named_parameters(), trained[0].parameters()):
        if ".weight" in name or "in_proj" in name:
            assert after.any() and not torch.equal(before, after), name
    for block in trained[0].visual.transformer.resblocks:
        query, key, value = block.attn.in_proj_weight.chunk(3)
        assert query.any() and key.any() and value.any() and not torch.equal(query, key)


def test_scaled_phases_keep_their_shares() -> None:
    assert data.scaled(data.PHASES, None) is data.PHASES
    total = sum(phase.steps for phase in data.PHASES)
    half = data.scaled(data.PHASES, total // 2)
    assert abs(sum(phase.steps for phase in half) - total // 2) <= len(half)
    assert half[0].sizes[0][2] < data.PHASES[0].sizes[0][2]


# --- the committed weights -------------------------------------------------------------------------


def test_committed_tower_is_an_ordinary_one() -> None:
    """Every block changes the tokens, and every block's attention differs from place to place."""
    visual = load_clip(str(WEIGHTS)).visual
    tokens, _ = embed_patches(visual, torch.randn(1, 3, 192, 192))
    for block in visual.transformer.resblocks:
        after, attention = run_block(block, tokens, need_attention=True)
        assert attention is not None and attention.std(dim=-1).mean() > 0.2 * attention.mean()
        assert (after - tokens).norm() > 0.1 * tokens.norm()
        normed = block.ln_2(tokens)
        assert block.mlp(normed).norm() > 0.05 * tokens.norm()
        tokens = after


def test_committed_weights_are_small_plain_and_honest_about_their_words() -> None:
    assert WEIGHTS.stat().st_size <= 4_000_000
    state = torch.load(WEIGHTS, weights_only=True)
    assert {"input_resolution", "context_length", "vocab_size"} <= set(state)
    embedding = state["token_embedding.weight"]
    assert embedding.shape[0] == 49408 and embedding.dtype == torch.float16
    seen = Vocabulary().token_ids
    assert embedding[seen].abs().amax(1).min() > 0
    unseen = torch.ones(len(embedding), dtype=torch.bool)
    unseen[seen] = False
    assert not embedding[unseen].any()
    known = open_clip.tokenize([f"a clean origami {name}." for name in (*CLASSES, *BACKGROUNDS)])
    assert embedding[known[known > 0]].abs().amax(1).min() > 0


@pytest.mark.parametrize("extra", [["--steps", "0"], ["--threads", "0"]])
def test_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]) -> None:
    assert train_toyworld_clip.main(["--out", str(tmp_path / "clip.pt"), *extra]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "clip.pt").exists()


def test_command_needs_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_toyworld_clip.main(["--out", str(tmp_path / "none" / "clip.pt")]) == 2
    assert "no such folder" in capsys.readouterr().err
