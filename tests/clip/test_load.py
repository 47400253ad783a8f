"""From weights to a model: sizes and heads, files that do not fit, open_clip names."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch

from clip import hub
from clip.load import load_clip
from clip.text import encode_tokens
from common.errors import UserError
from tests.clip.oracle import open_clip_model
from tests.support import openai_state, tiny_model

State = dict[str, torch.Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.jit|Tracer|TorchScript|Python boolean)")


@pytest.fixture(scope="module")
def state() -> State:
    return openai_state(tiny_model(layers=2, text_layers=1))


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize("container", ["OpenAI's archive", "state dict", "safetensors", "open_clip's checkpoint"])
def test_every_container_gives_open_clips_features(tmp_path: Path, container: str) -> None:
    theirs = open_clip_model(3, quick_gelu=container != "open_clip's checkpoint").half().float()
    path = tmp_path / ("w.safetensors" if container == "safetensors" else "w.pt")
    if container == "OpenAI's archive":
        example = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int64)
        torch.jit.trace(theirs, example).save(str(path))
    elif container == "safetensors":
        safetensors.torch.save_file(theirs.state_dict(), path)
    else:
        whole = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in theirs.state_dict().items()}}
        torch.save(openai_state(theirs) if container == "state dict" else whole, path)
    clip = load_clip(str(path))
    images, tokens = torch.randn(2, 3, 32, 32), open_clip.tokenize(["a cat", "two dogs"])
    assert torch.allclose(clip.model.encode_image(images), theirs.encode_image(images), atol=1e-5)
    assert torch.allclose(encode_tokens(clip, tokens), theirs.encode_text(tokens), atol=1e-5)
    assert clip.patch_size == 8 and clip.name == path.name


# --- weights of another kind ---------------------------------------------------------------------

ESSENTIAL = ["visual.conv1.weight", "visual.positional_embedding", "positional_embedding", "text_projection",
             "token_embedding.weight", "visual.proj", "logit_scale", "ln_final.bias",
             "visual.transformer.resblocks.0.mlp.c_fc.weight", "transformer.resblocks.0.attn.in_proj_bias"]  # fmt: skip


def test_a_weight_that_is_missing_or_misshapen_is_a_users_error(tmp_path: Path, state: State) -> None:
    for key in ESSENTIAL:
        others = {name: weight for name, weight in state.items() if name != key}
        larger = torch.zeros([side + 1 for side in state[key].shape] or [2]).half()
        for wrong in (None, larger, torch.zeros(3).half(), torch.tensor(1.0).half()):
            if key == "logit_scale" and wrong is not None and not wrong.dim():
                continue  # it is one number
            path = saved(tmp_path / "w.pt", others if wrong is None else {**others, key: wrong})
            with pytest.raises(UserError) as caught:
                load_clip(path)
            assert path in str(caught.value) and "\n" not in str(caught.value), key


def test_a_weight_too_many_is_named(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path / "w.pt", {**state, "visual.extra": torch.zeros(2)})
    with pytest.raises(UserError, match=rf"{path}.*visual\.extra"):
        load_clip(path)


def test_a_resnet_clip_is_told_apart_and_named(tmp_path: Path, state: State) -> None:
    resnet = {key: value for key, value in state.items() if not key.startswith("visual.")}
    resnet |= {"visual.conv1.weight": torch.zeros(32, 3, 3, 3).half(), "visual.layer1.0.bn1.weight": torch.zeros(2)}
    path = saved(tmp_path / "RN50.pt", resnet)
    with pytest.raises(UserError, match="ViT") as caught:
        load_clip(path)
    assert path in str(caught.value)


def test_a_tower_narrower_than_a_head_is_a_users_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", openai_state(tiny_model(layers=1, width=32, head_width=16, text_layers=1)))
    with pytest.raises(UserError, match=path):
        load_clip(path)


# --- open_clip names -----------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A small model that open_clip has by name."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    path = tmp_path / "model_configs" / "ViT-tiny-test.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    monkeypatch.setattr(hub, "package_file", lambda name: tmp_path / name)
    open_clip.add_model_config(path)
    yield path.stem
    open_clip.factory._MODEL_CONFIGS.pop(path.stem)


@torch.no_grad()
def test_a_name_with_a_file_is_that_model_with_those_weights(tmp_path: Path, state: State, named: str) -> None:
    path = saved(tmp_path / "w.pt", {key: value.float() for key, value in state.items()})
    clip = load_clip(named, path)
    own = open_clip.create_model(named, pretrained=path)
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(clip.model.encode_image(images), own.eval().encode_image(images), atol=1e-5)
    assert clip.activation == "gelu" and path in clip.name
    assert load_clip(named, path, activation="quick_gelu").activation == "quick_gelu"


def test_a_name_with_weights_of_another_size_says_so(tmp_path: Path, named: str) -> None:
    path = saved(tmp_path / "w.pt", openai_state(tiny_model(layers=1, text_layers=1)))
    with pytest.raises(UserError, match=rf"{path}.*resblocks\.1"):
        load_clip(named, path)


@pytest.mark.parametrize(
    ("model", "pretrained", "complaint"),
    [
        ("ViT-Q-99", None, "neither a file nor an open_clip model name"),
        ("ViT-Q-99", "openai", "neither a file nor an open_clip model name"),
        ("x" * 300, None, "neither a file nor an open_clip model name"),
        ("ViT-B-16", None, "needs --pretrained .*openai"),
        ("ViT-B-16", "opnai", "--pretrained opnai: unknown for ViT-B-16; expected one of: openai"),
        ("ViT-B-16", "nowhere/w.pt", "nowhere/w.pt: no such weight file"),
        ("nowhere/w.pt", None, "nowhere/w.pt: no such weight file"),
        ("RN50", "openai", "RN50: not a CLIP with a plain ViT"),
        ("ViT-B-16-SigLIP", "webli", "ViT-B-16-SigLIP: not a CLIP with a plain ViT"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "not a CLIP with a plain ViT"),
    ],
)
def test_a_name_that_cannot_be_loaded_says_what_to_give(model: str, pretrained: str | None, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        load_clip(model, pretrained)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_tag_does_not_deny_that_the_file_is_there(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path / "w.pt", state)
    with pytest.raises(UserError, match="--pretrained") as caught:
        load_clip(path, "openai")
    assert "neither a file" not in str(caught.value)


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError("no network here")


@pytest.mark.parametrize("where", [(socket, "getaddrinfo"), (open_clip, "download_pretrained")])
@pytest.mark.parametrize(
    ("name", "tag", "file"),
    [
        ("ViT-B-16", "openai", "open_clip_model.safetensors"),
        ("ViT-B-16", "laion2b_s34b_b88k", "open_clip_model.safetensors"),
    ],
)
def test_without_network_one_line_names_the_file_to_fetch(
    monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], name: str, tag: str, file: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    monkeypatch.setattr(*where, refuse)
    with pytest.raises(UserError) as caught:
        load_clip(name, tag)
    message = str(caught.value)
    assert "\n" not in message and f"{file} on a machine with internet" in message
    assert f"pass --model {name} --pretrained weights/{file}" in message
    assert ("--activation quick_gelu" in message) == (tag == "openai")


def test_a_downloaded_file_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: State, named: str) -> None:
    path = saved(tmp_path / "w.pt", state)
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda *_: {"url": "https://example.org/w.pt", "quick_gelu": True}
    )
    monkeypatch.setattr(open_clip, "download_pretrained", lambda source: path)
    clip = load_clip(named, "mine")
    assert clip.activation == "quick_gelu" and clip.name == f"{named}/mine"
