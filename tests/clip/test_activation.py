"""Which activation a model gets: what its file, its name or its tag says, or what is asked for."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from open_clip.transformer import QuickGELU

from clip import load
from clip.archive import Weights
from clip.load import Clip, load_clip
from clip.vision import class_token_features, vision_forward
from tests.support import openai_state, tiny_model

State = dict[str, torch.Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.jit|Python boolean)")


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
    path = saved(tmp_path / "w.pt", state)
    clip, other = load_clip(path), load_clip(path, activation="gelu")
    assert (clip.activation, other.activation) == ("quick_gelu", "gelu")
    assert gelu_of(clip) is QuickGELU and gelu_of(other) is torch.nn.GELU
    assert (features(clip) - features(other)).abs().max() > 1e-3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("form", "activation", "warns"),
    [("checkpoint", "gelu", False), ("float32", "quick_gelu", True), ("float32, input_resolution", "quick_gelu", False),
     ("safetensors", "quick_gelu", True)],
)  # fmt: skip
def test_activation_follows_from_the_file_or_is_warned_about(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], form: str, activation: str, warns: bool
) -> None:
    full, path = {key: value.float() for key, value in state.items()}, tmp_path / "w.pt"
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
        safetensors.torch.save_file(full, path)
    elif form == "checkpoint":
        saved(path, {"state_dict": {f"module.{key}": value for key, value in full.items()}})
    else:
        more = {"input_resolution": torch.tensor(32)} if "input" in form else {}
        saved(path, {**full, **more})
    clip = load_clip(str(path))
    assert clip.activation == activation and (gelu_of(clip) is QuickGELU) == (activation == "quick_gelu")
    err = capsys.readouterr().err
    assert ("--activation gelu" in err and str(path) in err and err.startswith("warning: ")) == warns
    assert load_clip(str(path), activation="gelu").activation == "gelu"
    assert capsys.readouterr().err == ""  # asked for: no doubt, no warning


def test_a_torchscript_archive_gets_quick_gelu(tmp_path: Path) -> None:
    model = tiny_model(layers=1, text_layers=1)
    torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int64))).save(
        str(tmp_path / "archive.pt")
    )
    clip = load_clip(str(tmp_path / "archive.pt"))
    assert clip.activation == "quick_gelu"
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(clip.model.encode_image(images), model.encode_image(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tag", "activation"),
    [
        ("ViT-B-16", "openai", "quick_gelu"),
        ("ViT-L-14", "openai", "quick_gelu"),
        ("ViT-B-16", "laion2b_s34b_b88k", "gelu"),
        ("ViT-B-32", "laion2b_s34b_b79k", "gelu"),
        ("ViT-B-16-quickgelu", "dfn2b", "quick_gelu"),
        ("ViT-B-16-quickgelu", "metaclip_400m", "quick_gelu"),
        ("ViT-B-16", "metaclip_400m", "quick_gelu"),  # the tag knows, whatever the name
        ("ViT-B-16", "weights/mine.pt", "gelu"),
    ],
)
def test_activation_of_a_name_is_its_own_or_its_tags_word(name: str, tag: str, activation: str) -> None:
    assert load._activation_of_name(name, tag, Weights({}, "state_dict", "0")) == activation


@pytest.mark.parametrize(
    "weights", [Weights({}, "archive", "0"), Weights({"input_resolution": torch.tensor(1)}, "", "")]
)
def test_openais_own_file_keeps_quick_gelu_under_any_name(weights: Weights) -> None:
    assert load._activation_of_name("ViT-B-16", "weights/mine.pt", weights) == "quick_gelu"
