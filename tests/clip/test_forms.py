"""Every form in which people have a CLIP gives the features of the library that wrote it."""

import argparse
import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip.archive import read_weights
from clip.load import Clip, load_clip
from clip.text import encode_tokens, tokenize
from common.errors import UserError
from tests.clip.oracle import open_clip_model
from tests.support import ROOT

State = dict[str, torch.Tensor]
PROMPTS = ["a cat", "two dogs, running", "a photo of a bicycle"]


@dataclass(frozen=True)
class Truth:
    """What a library gives: a state dict under its own names, features (P, E) of PROMPTS and (2, E) of `images()`."""

    state: State
    texts: torch.Tensor
    images: torch.Tensor


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def agrees(clip: Clip, truth: Truth) -> bool:
    texts = encode_tokens(clip, tokenize(clip, PROMPTS))
    found = clip.model.encode_image(images())
    return torch.allclose(texts, truth.texts, atol=1e-5) and torch.allclose(found, truth.images, atol=1e-5)


@torch.no_grad()
def truth_of(model: open_clip.CLIP, context: int = 77) -> Truth:
    texts = model.encode_text(open_clip.tokenize(PROMPTS, context))
    return Truth(model.state_dict(), texts, model.encode_image(images()))


@pytest.fixture(scope="module")
def openai() -> Truth:
    """open_clip's model with QuickGELU, whose weights are float16 numbers."""
    return truth_of(open_clip_model(3, text_layers=1).half().float())


# --- containers, and what trainers put before every name -----------------------------------------


def before(word: str, state: State) -> State:
    return {f"{word}{name}": value for name, value in state.items()}


OTHERS = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}}, "epoch": 3}
CONTAINERS: dict[str, Callable[[State], Any]] = {
    "torch.compile": lambda state: before("_orig_mod.", state),
    "Lightning": lambda state: {
        "state_dict": before("model.", state),
        "hyper_parameters": argparse.Namespace(lr=np.float64(0.1), out=Path("runs"), made=datetime(2024, 1, 1)),
        "callbacks": {"best": np.array([1.0, 2.0]), "seen": defaultdict(list, {"a": [1]}), "torch": torch.__version__},
        **OTHERS,
    },
    "Lightning, compiled, in parallel": lambda state: {"state_dict": before("model._orig_mod.module.", state)},
    "model": lambda state: {"model": state, **OTHERS},
    "model_state_dict": lambda state: {"model_state_dict": before("module.", state), **OTHERS},
    "in two dictionaries": lambda state: {"checkpoint": {"net": before("clip_model.", state)}},
    "averaged": lambda state: {"model": {name: value + 1 for name, value in state.items()}, "model_ema": state},
    "compiled, twice": lambda state: {**before("net.", state), **before("net_ema._orig_mod.", state)},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_and_words_before_names(tmp_path: Path, openai: Truth, container: str) -> None:
    path = tmp_path / "w.ckpt"
    torch.save(CONTAINERS[container](openai.state), path)
    assert agrees(load_clip(str(path), activation="quick_gelu"), openai)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions_and_files_without_the_right_ending(tmp_path: Path, openai: Truth, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in openai.state.items()}
    theirs = open_clip_model(3, text_layers=1)
    theirs.load_state_dict(state)
    save_file(state, tmp_path / "w.pt")
    torch.save(state, tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        assert agrees(load_clip(str(tmp_path / name), activation="quick_gelu"), truth_of(theirs))


def test_what_a_wrapper_has_beside_the_clip_is_named(
    tmp_path: Path, openai: Truth, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pt"
    torch.save({**before("clip.", openai.state), "head.weight": torch.zeros(3), "head.bias": torch.zeros(3)}, path)
    assert agrees(load_clip(str(path), activation="quick_gelu"), openai)
    assert "left out: head.weight and 1 more" in capsys.readouterr().err


def test_which_of_two_clips_is_meant_is_asked_or_said(
    tmp_path: Path, openai: Truth, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pt"
    torch.save({**before("student.", openai.state), **before("teacher.", openai.state)}, path)
    with pytest.raises(UserError, match=r"holds 2 CLIPs \(student\., teacher\.\)"):
        load_clip(str(path))
    torch.save(CONTAINERS["averaged"](openai.state), path)
    load_clip(str(path), activation="quick_gelu")
    assert r"the averaged weights, model_ema., are taken" in capsys.readouterr().err


def test_of_a_training_checkpoint_only_the_clip_stays_in_memory(tmp_path: Path, openai: Truth) -> None:
    """The optimiser's state is larger; and a file that is written again meanwhile changes nothing."""
    path = tmp_path / "w.pt"
    torch.save({"state_dict": openai.state, "optimizer": {"sums": torch.zeros(5_000_000)}}, path)
    state = read_weights(path).state
    with path.open("r+b") as stream:
        stream.write(bytes(path.stat().st_size))
    assert all(torch.equal(state[name], value) for name, value in openai.state.items())


def test_a_text_tower_of_its_own_class(tmp_path: Path, openai: Truth) -> None:
    """As open_clip writes it for `custom_text`."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    text = CLIPTextCfg(77, 49408, width=64, heads=1, layers=1)
    model = CustomTextCLIP(32, CLIPVisionCfg(layers=3, width=64, patch_size=8, image_size=32), text, quick_gelu=True)
    model.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(openai.state))
    torch.save({"state_dict": before("module.", model.state_dict())}, tmp_path / "w.pt")
    assert agrees(load_clip(str(tmp_path / "w.pt"), activation="quick_gelu"), openai)


# --- Long-CLIP -----------------------------------------------------------------------------------


@torch.no_grad()
def test_long_clips_two_position_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows 0 to 19 count of the first, the others of the second; the truth is open_clip's model with the merged one."""
    theirs = open_clip_model(4, text_layers=1)
    theirs.positional_embedding = torch.nn.Parameter(torch.randn(248, 64) * 0.1)
    theirs.register_buffer("attn_mask", torch.full((248, 248), -torch.inf).triu_(1), persistent=False)
    state, positions = theirs.state_dict(), theirs.positional_embedding.data
    first, second = torch.full((2, 248, 64), 7.0)
    first[:20], second[20:] = positions[:20], positions[20:]
    torch.save({**state, "positional_embedding": first, "positional_embedding_res": second}, tmp_path / "longclip.pt")
    clip = load_clip(str(tmp_path / "longclip.pt"))
    assert clip.activation == "quick_gelu" and capsys.readouterr().err == ""  # Long-CLIP began as OpenAI's
    assert agrees(clip, truth_of(theirs, 248))
    long = ["a dog " * 100]
    tokens = tokenize(clip, long)
    assert tokens.shape == (1, 248) and torch.equal(tokens, open_clip.tokenize(long, 248))
    assert torch.allclose(encode_tokens(clip, tokens), theirs.encode_text(tokens), atol=1e-5)
    with pytest.raises(UserError, match="249 tokens, but this CLIP takes 246"):
        tokenize(clip, ["dog " * 249])


# --- Hugging Face's ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    path: Path
    truth: Truth


@torch.no_grad()
def made_by_transformers(root: Path, act: str, heads: int, context: int = 77) -> Folder:
    """A random CLIP as `save_pretrained` writes it, in one file (`whole`) and in `parts`, and as .bin (`bin`)."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(5)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": heads, "hidden_act": act}
    text = {**sizes, "num_hidden_layers": 1, "max_position_embeddings": context}
    vision = {**sizes, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    for name, value in model.named_parameters():
        if name != "logit_scale":
            value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(root / "whole")
    model.save_pretrained(root / "parts", max_shard_size="1MB")
    (root / "bin").mkdir()
    torch.save(model.state_dict(), root / "bin" / "pytorch_model.bin")
    model.config.save_pretrained(root / "bin")
    tokens = open_clip.tokenize(PROMPTS, context)
    texts = model.text_projection(model.text_model(tokens).pooler_output)
    return Folder(
        root, Truth(model.state_dict(), texts, model.visual_projection(model.vision_model(images()).pooler_output))
    )


@pytest.fixture(scope="module")
def with_gelu(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Its two heads, 32 wide, and its GELU are known from its config alone."""
    return made_by_transformers(tmp_path_factory.mktemp("gelu"), "gelu", heads=2)


@pytest.fixture(scope="module")
def with_quick_gelu(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return made_by_transformers(tmp_path_factory.mktemp("quick"), "quick_gelu", heads=1, context=248)


FORMS = ["whole", "parts", "bin", "whole/model.safetensors", "bin/pytorch_model.bin",
         "parts/model.safetensors.index.json"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_hugging_faces_folder_and_its_config(
    with_gelu: Folder, with_quick_gelu: Folder, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, act in ((with_gelu, "gelu"), (with_quick_gelu, "quick_gelu")):
        clip = load_clip(str(folder.path / form))
        assert clip.activation == act and agrees(clip, folder.truth)
        assert capsys.readouterr().err == ""  # everything is said by the config
    assert clip.texts.context_length == 248


def test_hugging_faces_bare_file(tmp_path: Path, with_quick_gelu: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """As it was downloaded alone, or was put into a checkpoint by Lightning, in half precision."""
    state = load_file(with_quick_gelu.path / "whole" / "model.safetensors")
    save_file(state, tmp_path / "downloaded.safetensors")
    buffers = {"text_model.embeddings.position_ids": torch.arange(248)[None]}  # of older versions
    torch.save({"state_dict": before("model.clip.", {**state, **buffers})}, tmp_path / "lightning.ckpt")
    for name in ("downloaded.safetensors", "lightning.ckpt"):
        clip = load_clip(str(tmp_path / name), activation="quick_gelu")
        assert agrees(clip, with_quick_gelu.truth) and capsys.readouterr().err == ""
    assert load_clip(str(tmp_path / "downloaded.safetensors")).activation == "quick_gelu"
    assert "--activation quick_gelu settles it" in capsys.readouterr().err


@pytest.mark.slow
def test_no_library_of_models_is_imported_for_a_file(with_gelu: Folder) -> None:
    code = (
        f"import sys; from clip.load import load_clip; load_clip({str(with_gelu.path / 'parts')!r})\n"
        "sys.exit(bool({'transformers', 'open_clip', 'timm', 'torchvision'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_fingerprint_of_parts_is_that_of_all_of_them(with_gelu: Folder) -> None:
    files = sorted((with_gelu.path / "parts").glob("*.safetensors"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    assert len(files) > 1 and read_weights(with_gelu.path / "parts").fingerprint == digest


def test_a_weight_that_is_missing_has_the_name_that_the_file_gives_it(tmp_path: Path, with_quick_gelu: Folder) -> None:
    state = before("model.", with_quick_gelu.truth.state)
    for name in (
        "model.vision_model.encoder.layers.1.self_attn.v_proj.bias",
        "model.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.text_model.final_layer_norm.bias",
        "model.visual_projection.weight",
    ):
        torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "w.pt")
        with pytest.raises(UserError, match=rf"weight {name} is missing"):
            load_clip(str(tmp_path / "w.pt"))
    torch.save({**state, "model.vision_model.extra": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"no place for model\.vision_model\.extra"):
        load_clip(str(tmp_path / "w.pt"))


def changed(folder: Folder, root: Path, change: Callable[[dict[str, Any]], Any], name: str = "config.json") -> str:
    """A copy of the folder whose config was changed."""
    root.mkdir()
    (root / "model.safetensors").symlink_to(folder.path / "whole" / "model.safetensors")
    config = json.loads((folder.path / "whole" / "config.json").read_text())
    (root / name).write_text(json.dumps(change(config) or config))
    return str(root)


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "of another model": (lambda config: config.update(model_type="siglip"), r"config\.json: model_type siglip"),
    "two activations": (lambda config: config["text_config"].update(hidden_act="quick_gelu"), "gelu, quick_gelu"),
    "another activation": (
        lambda config: [config[name].update(hidden_act="gelu_new") for name in ("text_config", "vision_config")] and {},
        "hidden_act gelu_new; expected quick_gelu or gelu",
    ),
    "another epsilon": (lambda config: config["vision_config"].update(layer_norm_eps=1e-6), "layer_norm_eps 1e-06"),
    "heads that do not fit": (lambda config: config["vision_config"].update(num_attention_heads=5), "heads"),
    "odd heads": (lambda config: config["vision_config"].update(num_attention_heads="two"), "not the config of a CLIP"),
    "no object": (lambda config: ["a list"], "holds a list; expected a JSON object"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_does_not_fit_is_named(tmp_path: Path, with_gelu: Folder, case: str) -> None:
    change, complaint = CONFIGS[case]
    with pytest.raises(UserError, match=complaint) as caught:
        load_clip(changed(with_gelu, tmp_path / "hf", change))
    assert str(tmp_path / "hf") in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_with_its_sections_twice_goes_by_the_second(tmp_path: Path, with_gelu: Folder) -> None:
    """As transformers does with old files."""

    def twice(config: dict[str, Any]) -> None:
        for name in ("text_config", "vision_config"):
            config[f"{name}_dict"] = dict(config[name])
            config[name].update(hidden_act="quick_gelu", num_attention_heads=4)

    assert agrees(load_clip(changed(with_gelu, tmp_path / "hf", twice)), with_gelu.truth)


def test_images_of_another_mean_are_warned_about(
    tmp_path: Path, with_gelu: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(changed(with_gelu, tmp_path / "hf", lambda config: None))
    for mean, warned in (([0.5, 0.5, 0.5], True), ([0.48145466, 0.4578275, 0.40821073], False)):
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean}))
        load_clip(str(folder))
        assert ("images of mean (0.5, 0.5, 0.5)" in capsys.readouterr().err) == warned


def test_a_folder_that_is_not_whole_says_what_is_missing(tmp_path: Path, with_gelu: Folder) -> None:
    part = sorted((with_gelu.path / "parts").glob("*.safetensors"))[0]
    with pytest.raises(UserError, match="one of several parts of a model; pass its folder"):
        load_clip(str(part))
    (tmp_path / part.name).symlink_to(part)
    with pytest.raises(UserError, match=r"without their index; expected model\.safetensors\.index\.json"):
        load_clip(str(tmp_path))
    index = (with_gelu.path / "parts" / "model.safetensors.index.json").read_text()
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"its part model-00002-of-\d+\.safetensors is missing"):
        load_clip(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../secret.safetensors"}}')
    with pytest.raises(UserError, match=r"its part .* is missing"):
        load_clip(str(tmp_path))


# --- open_clip's folder --------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
def test_open_clips_folder_and_its_config(tmp_path: Path, quick: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """As `push_to_hf_hub` lays it out."""
    from open_clip.push_to_hf_hub import save_config_for_hf

    theirs = open_clip_model(6, quick_gelu=quick, text_layers=1, head_width=32)
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, **({"quick_gelu": True} if quick else {})}
    theirs.visual.image_mean, theirs.visual.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    save_config_for_hf(theirs, tmp_path / "open_clip_config.json", config)
    clip = load_clip(str(tmp_path))
    assert clip.activation == ("quick_gelu" if quick else "gelu") and agrees(clip, truth_of(theirs))
    assert capsys.readouterr().err == ""
