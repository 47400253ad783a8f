"""--prompts FILE in every command that asks CLIP for classes: other prompts give other files, which say so."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip.learned_prompts import LearnedPrompts, encode_names, write_learned_prompts
from clip.load import Clip, load_clip
from clip.tokenizer import SimpleTokenizer
from pipeline.methods.method import CamSettings
from pipeline.methods.table import METHODS
from pipeline.stages.cams import text_set
from segmentor.maskclip_plus import load_clip_text
from tests.support import Desk
from voc12.spec import SPEC

pytestmark = pytest.mark.slow


@pytest.fixture
def clip(weights: Path) -> Clip:
    return load_clip(str(weights))


def written(clip: Clip, path: Path, prefix: torch.Tensor) -> str:
    """A file of these vectors; returns their fingerprint."""
    nothing = torch.zeros(0, clip.texts.width)
    write_learned_prompts(path, clip, prefix, nothing, {})
    return LearnedPrompts.of(prefix, nothing).fingerprint


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_asks_with_learned_prompts(method: str, clip: Clip) -> None:
    """Its own names, of classes and background words, inside the vectors; no template."""
    prefix = torch.randn(4, clip.texts.width, generator=torch.Generator().manual_seed(1))
    learned = LearnedPrompts.of(prefix, torch.zeros(0, clip.texts.width))
    asked, way = replace(clip, learned=learned), METHODS[method]
    options = way.settings()
    settings = CamSettings(method=method, options=way.complete(asked, SPEC, options) if way.regions else options)
    found = text_set(asked, SPEC, settings)
    names = METHODS[method].words(SPEC, settings.options).one_by_one().names
    assert len(names) >= len(SPEC.classes) and torch.allclose(
        torch.cat([found.foreground, found.background]), encode_names(clip, names, learned), atol=1e-6
    )


def test_files_say_which_prompts_they_were_made_with(desk: Desk, clip: Clip) -> None:
    file = desk.root / "p.safetensors"
    name = written(clip, file, torch.randn(4, clip.texts.width))
    assert desk.run("generate_cams").code == 0
    plain = dict(np.load(desk.cams / "a.npz"))
    refused = desk.run("generate_cams", "--prompts", file)
    assert refused.code == 2 and f"learned_prompts None (now {name})" in refused.err
    assert desk.run("generate_cams", "--prompts", file, "--overwrite").code == 0
    learned = dict(np.load(desk.cams / "a.npz"))
    assert json.loads(str(learned["made_by"]))["learned_prompts"] == name
    assert not np.array_equal(plain["cam"], learned["cam"])


def test_vectors_of_the_templates_words_give_the_templates_maps(desk: Desk, clip: Clip) -> None:
    """Background words are asked for with the same vectors as the classes."""
    prefix = clip.texts.token_embeddings()[SimpleTokenizer().encode("a clean origami")].float()
    written(clip, desk.root / "p.safetensors", prefix)
    assert desk.run("generate_cams").code == 0
    plain = dict(np.load(desk.cams / "a.npz"))
    assert desk.run("generate_cams", "--overwrite", "--prompts", desk.root / "p.safetensors").code == 0
    learned = dict(np.load(desk.cams / "a.npz"))
    assert plain["attn"].max() > 0.5 and np.abs(plain["attn"] - learned["attn"]).max() < 2e-3


def test_tags_and_other_commands(desk: Desk, clip: Clip) -> None:
    file = desk.root / "p.safetensors"
    written(clip, file, torch.zeros(2, clip.texts.width))
    data = ["--dataset", "voc12", "--img_root", desk.data, "--model", desk.weights, "--device", "cpu"]
    ended = desk.command("scripts.tag_images", *data, "--prompts", file, "--out", desk.root / "tags.txt")
    assert ended.code == 0 and "2 learned vectors before the names" in ended.out
    both = desk.command("scripts.tag_images", *data, "--prompts", file, "--templates", "maskclip85")
    assert both.code == 2 and both.err.startswith("error: --templates maskclip85: learned prompts stand in their place")
    missing = desk.run("generate_cams", "--prompts", desk.root / "no.pth")
    assert missing.code == 2 and "no.pth: no such weight file" in missing.err and "Traceback" not in missing.err


def test_a_teacher_asks_with_them_too(clip: Clip, weights: Path, tmp_path: Path) -> None:
    """MaskCLIP+: the identity of the CLIP, which checkpoints hold, names the prompts."""
    file, prefix = tmp_path / "p.safetensors", torch.randn(3, clip.texts.width)
    name, asked = written(clip, file, prefix), (str(weights), None, torch.device("cpu"), "auto", "auto")
    plain, found = load_clip_text(SPEC, *asked), load_clip_text(SPEC, *asked, prompts=file)
    learned = LearnedPrompts.of(prefix, torch.zeros(0, clip.texts.width))
    names = METHODS["maskclip"].words(SPEC, METHODS["maskclip"].settings()).names
    assert torch.allclose(found.text.foreground, encode_names(clip, names[:20], learned), atol=1e-6)
    assert (plain.words.learned, found.words.learned) == (None, name)
