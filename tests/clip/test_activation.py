"""Which activation a model gets: what its file, its name or its tag says, or what is asked for."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from clip import hub
from clip.load import Clip, load_clip
from clip.transformer import QuickGELU
from clip.vision import class_token_features, vision_forward
from tests.support import openai_state, tiny_model

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return openai_state(tiny_model(layers=2, text_layers=1))


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def gelu_of(clip: Clip) -> type:
    return type(clip.visual.transformer.resblocks[0].mlp.gelu)


def features(clip: Clip) -> torch.Tensor:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 4 * clip.patch_size, 4 * clip.patch_size)
    return class_token_features(clip.visual, vision_forward(clip.visual, images).last_output)


def test_openai_float16_weights_get_quick_gelu_and_that_matters(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "w.pt", {**state, "input_resolution": torch.tensor(32)})
    clip, other = load_clip(path), load_clip(path, activation="gelu")
    assert (clip.activation, other.activation) == ("quick_gelu", "gelu")
    assert gelu_of(clip) is QuickGELU and gelu_of(other) is torch.nn.GELU
    assert (features(clip) - features(other)).abs().max() > 1e-3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("form", "activation", "warns"),
    [("checkpoint", "gelu", True), ("float32", "quick_gelu", True), ("float32, input_resolution", "quick_gelu", False),
     ("safetensors", "quick_gelu", True), ("float16", "quick_gelu", True), ("float16 checkpoint", "quick_gelu", True)],
)  # fmt: skip
def test_activation_follows_from_the_file_or_is_warned_about(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], form: str, activation: str, warns: bool
) -> None:
    full, path = {key: value.float() for key, value in state.items()}, tmp_path / "w.pt"
    full = state if "float16" in form else full
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
        safetensors.torch.save_file(full, path)
    elif "checkpoint" in form:
        saved(path, {"state_dict": {f"module.{key}": value for key, value in full.items()}})
    else:
        more = {"input_resolution": torch.tensor(32)} if "input" in form else {}
        saved(path, {**full, **more})
    clip = load_clip(str(path))
    assert clip.activation == activation and (gelu_of(clip) is QuickGELU) == (activation == "quick_gelu")
    err = capsys.readouterr().err
    assert (f"--activation {activation} settles it" in err and str(path) in err and "warning: " in err) == warns
    assert load_clip(str(path), activation="gelu").activation == "gelu"
    assert capsys.readouterr().err == ""  # asked for: no doubt, no warning


CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.mark.parametrize(
    ("config", "tag", "tag_config", "more", "activation"),
    [
        ({}, "openai", {}, {}, "quick_gelu"),
        ({}, "laion", {}, {}, "gelu"),
        ({"quick_gelu": True}, "dfn", {}, {}, "quick_gelu"),
        ({}, "metaclip", {"quick_gelu": True}, {}, "quick_gelu"),  # the tag knows, whatever the name
        ({}, "laion", {}, {"input_resolution": torch.tensor(32)}, "quick_gelu"),  # OpenAI's own file
    ],
)
def test_activation_of_a_name_is_its_own_or_its_tags_word(
    tmp_path: Path,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    tag: str,
    tag_config: dict[str, Any],
    more: State,
    activation: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path(saved(tmp_path / "w.pt", {**{key: value.float() for key, value in state.items()}, **more}))
    monkeypatch.setattr(hub, "model_config", lambda name: {**CONFIG, **config})
    monkeypatch.setattr(hub, "tag_config", lambda name, tag: tag_config)
    monkeypatch.setattr(hub, "download", lambda name, tag: path)
    assert load_clip("ViT", tag).activation == activation
    if tag != "openai":  # the same file without a tag: nothing but the name and the file can tell
        expected = "quick_gelu" if config or more else "gelu"
        capsys.readouterr()
        assert load_clip("ViT", str(path)).activation == expected
        assert ("--activation gelu settles it" in capsys.readouterr().err) == (expected == "gelu")


def test_open_clip_says_which_names_and_tags_have_quick_gelu() -> None:
    assert hub.tag_config("ViT-B-16", "metaclip_400m").get("quick_gelu")
    assert not hub.tag_config("ViT-B-16", "laion2b_s34b_b88k").get("quick_gelu")
    assert (hub.model_config("ViT-B-16-quickgelu") or {}).get("quick_gelu")
    assert hub.model_config("ViT-Q-99") is None and hub.model_config("../ViT-B-16") is None


def test_a_tag_whose_images_had_another_mean_is_warned_about(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hub.tag_config("ViT-L-14", "laion2b_s32b_b82k")["mean"] == (0.5, 0.5, 0.5)
    path = Path(saved(tmp_path / "w.pt", state))
    monkeypatch.setattr(hub, "model_config", lambda name: {**CONFIG, "quick_gelu": True})
    monkeypatch.setattr(hub, "download", lambda name, tag: path)
    for mean in ((0.5, 0.5, 0.5), (0.48145466, 0.4578275, 0.40821073)):
        monkeypatch.setattr(hub, "tag_config", lambda name, tag, mean=mean: {"mean": mean})
        load_clip("ViT", "laion")
        assert ("images of mean (0.5, 0.5, 0.5)" in capsys.readouterr().err) == (mean[0] == 0.5)
