"""Checkpoints with every weight accounted for, and networks begun from a CLIP."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from clip.load import load_clip
from common.errors import UserError
from segclip.load import begin_from, load_segclip, read_segclip
from segclip.network import SegClip
from tests.clip.oracle import open_clip_model
from tests.segclip.small import small_segclip
from tests.support import tiny_model

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def network() -> SegClip:
    return small_segclip()


def saved(path: Path, state: State) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("decoder", [True, False])
def test_a_checkpoint_gives_the_network_that_it_was_saved_from(tmp_path: Path, decoder: bool) -> None:
    """Of the sizes that are in it, in either container, with or without the decoder."""
    state = small_segclip(1, decoder=decoder, groups=6).state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for path in (saved(tmp_path / "segclip.bin", state), tmp_path / "w.safetensors"):
        read, _ = read_segclip(path)
        assert (read.vis_mae_decoder is not None) == decoder and not any(p.requires_grad for p in read.parameters())
        assert read.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in read.state_dict().items())


def changed(name: str, value: torch.Tensor | None) -> Callable[[State], None]:
    def change(state: State) -> None:
        if value is None:
            del state[name]
        else:
            state[name] = value

    return change


BLOCK = "clip.visual.transformer.layers2.1"
MASK, EMBEDDING = "vis_mae_decoder.mask_token", "clip.token_embedding.weight"
MISTAKES = {
    "a block's weight is missing": (changed(f"{BLOCK}.ln_1.bias", None), f"weight {BLOCK}.ln_1.bias is missing"),
    "no token embedding": (changed(EMBEDDING, None), f"weight {EMBEDDING} is missing"),
    "no image tower": (changed("clip.visual.conv1.weight", None), "weight clip.visual.conv1.weight is missing"),
    "part of the decoder": (changed(MASK, None), f"weight {MASK} is missing"),
    "a foreign weight": (changed("clip.visual.adapter.weight", torch.zeros(2)), "no place for clip.visual.adapter"),
    "another width": (changed("clip.visual.transformer.semantic_layer2.norm.weight", torch.ones(192)), "shape (192,)"),
    "not finite": (changed("clip.visual.proj", torch.full((128, 24), torch.nan)), "not finite"),
    "no width of 64s": (changed("clip.visual.conv1.weight", torch.zeros(96, 3, 8, 8)), "the shapes of a SegCLIP"),
    "no centres": (changed("clip.visual.transformer.semantic_layer2.semantic_center", None), "of another network"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_whole_checkpoint_is_refused_in_one_line(network: SegClip, tmp_path: Path, mistake: str) -> None:
    change, wanted = MISTAKES[mistake]
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(UserError) as refused:
        load_segclip(saved(tmp_path / "w.bin", state))
    assert wanted in str(refused.value) and str(tmp_path / "w.bin") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_clip_and_a_segclip_are_not_taken_for_each_other(network: SegClip, tmp_path: Path) -> None:
    plain = saved(tmp_path / "clip.pt", dict(tiny_model().state_dict()))
    with pytest.raises(UserError, match="of a plain CLIP; expected a SegCLIP checkpoint"):
        load_segclip(plain)
    with pytest.raises(UserError, match="the weights of a SegCLIP, which goes with --method segclip"):
        load_clip(str(saved(tmp_path / "segclip.pt", dict(network.state_dict()))))


def test_a_network_begins_with_a_clips_weights_and_draws_the_rest(tmp_path: Path) -> None:
    weights = dict(open_clip_model(4, width=128, layers=4).state_dict())
    clip = load_clip(str(saved(tmp_path / "clip.pt", {name: value.half() for name, value in weights.items()})))
    network = begin_from(clip, torch.Generator().manual_seed(0))
    state = network.state_dict()
    assert clip.activation == "quick_gelu" and all(p.requires_grad for p in network.parameters())
    for name, value in weights.items():
        stages = {"resblocks.0.": "layers0.0.", "resblocks.1.": "layers0.1.", "resblocks.2.": "layers2.0.",
                  "resblocks.3.": "layers2.1."}  # fmt: skip
        for old, new in stages.items():
            name = name.replace(f"visual.transformer.{old}", f"visual.transformer.{new}")
        if name != "attn_mask":
            assert torch.equal(state.pop(f"clip.{name}"), value.half().float()), name
    drawn = {name: value for name, value in state.items() if value.numel() > 500 and value.ndim > 1}
    uniform = [name for name in drawn if "_conv." in name or "in_proj" in name]
    assert {name for name in uniform if "k_conv" in name} and len(uniform) == 6
    for name, value in drawn.items():
        if "_conv." in name:
            assert 0.12 < value.abs().max() <= 0.125
        elif "in_proj" in name:
            assert 0.1 < value.abs().max() <= (6 / (128 + 384)) ** 0.5
        elif "pos_embed" not in name:
            assert abs(float(value.std()) - 0.02) < 0.002 and value.abs().max() > 0.05, name
    biases = [value for name, value in state.items() if name.endswith("bias")]
    assert biases and not any(value.any() for value in biases)
    again = begin_from(clip, torch.Generator().manual_seed(0)).state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    read, _ = read_segclip(saved(tmp_path / "segclip.bin", network.state_dict()))
    assert read.state_dict().keys() == network.state_dict().keys()


def test_a_clip_that_cannot_begin_is_refused(tmp_path: Path) -> None:
    narrow = load_clip(str(saved(tmp_path / "clip.pt", dict(open_clip_model(5, width=96, layers=3).state_dict()))))
    with pytest.raises(UserError, match=r"clip\.pt: cannot become a SegCLIP \(a width of 96"):
        begin_from(narrow, torch.Generator())
    with pytest.raises(UserError, match="no blocks before or behind"):
        begin_from(load_clip(str(tmp_path / "clip.pt")), torch.Generator(), last_blocks=3)
