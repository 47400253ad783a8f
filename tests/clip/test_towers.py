"""Our towers against open_clip's on the same random weights."""

from typing import Any

import open_clip
import pytest
import torch

from clip.hub import model_config
from clip.load import Clip
from clip.model import HEAD_WIDTHS, sizes_of_config
from clip.resnet import ResNetSizes
from clip.transformer import VitSizes
from tests.clip.oracle import open_clip_model
from tests.support import clip_from

TOWERS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "ViT, GELU": {"quick_gelu": False},
    "ViT, two heads": {"width": 128, "layers": 1, "patch_size": 16, "mlp_ratio": 2.5},
    "ViT, layer scale": {"ls_init_value": 0.1},
    "ResNet": {"layers": (1, 2, 1, 1), "width": 16, "image_size": 64},
}


def encode_text(clip: Clip, tokens: torch.Tensor, blocks: int | None = None) -> torch.Tensor:
    return clip.texts.tower(clip.device)(tokens, blocks)


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_features_are_open_clips(name: str) -> None:
    theirs = open_clip_model(3, **TOWERS[name])
    ours = clip_from(theirs.state_dict(), activation="gelu" if name == "ViT, GELU" else "quick_gelu")
    side = ours.visual.image_size
    images, tokens = torch.randn(2, 3, side, side), open_clip.tokenize(["a cat", "two dogs, running"])
    torch.testing.assert_close(ours.model.encode_image(images), theirs.encode_image(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encode_text(ours, tokens), theirs.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert ours.logit_scale == theirs.logit_scale.exp()
    assert ours.texts.context_length == 77 and ours.texts.embedding == 32 and ours.texts.blocks == 2


@torch.no_grad()
def test_a_tower_is_frozen_in_float32_and_holds_every_weight() -> None:
    state = open_clip_model(ls_init_value=0.1).half().state_dict()
    clip = clip_from(state)
    ours = {**clip.model.state_dict(), **clip.texts.tower(clip.device).state_dict()}
    assert ours.keys() == state.keys()
    assert all(torch.equal(value, state[key].float()) and value.dtype == torch.float32 for key, value in ours.items())
    for module in (clip.model, clip.texts.tower(clip.device)):
        assert not module.training and not any(weight.requires_grad for weight in module.parameters())


@torch.no_grad()
def test_the_first_blocks_of_the_text_tower_alone() -> None:
    """As a model that has only these."""
    theirs, tokens = open_clip_model(text_layers=3), open_clip.tokenize(["a cat", "two dogs"])
    ours = clip_from(theirs.state_dict())
    theirs.transformer.resblocks = theirs.transformer.resblocks[:2]
    torch.testing.assert_close(encode_text(ours, tokens, 2), theirs.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_sizes_of_names_are_those_of_open_clips_configurations() -> None:
    """Of every plain CLIP that open_clip names; weights without a name are assumed to have the same head widths."""
    compared = 0
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        assert model_config(name) == config
        sizes = sizes_of_config(config)
        if sizes is None:
            continue
        (vision, text), width = sizes, config["vision_cfg"]["width"]
        if isinstance(vision, VitSizes):
            assert vision.blocks.heads * config["vision_cfg"].get("head_width", 64) == width, name
            assert HEAD_WIDTHS.get(width, 64) * vision.blocks.heads == width, name
        else:
            assert isinstance(vision, ResNetSizes) and vision.heads * 64 == width * 32
        assert max(1, text.blocks.width // 64) == text.blocks.heads, name
        compared += 1
    assert compared > 30


@pytest.mark.slow
@torch.no_grad()
def test_vit_h_heads_are_80_wide() -> None:
    theirs = open_clip_model(layers=1, width=1280, head_width=80, mlp_ratio=0.1)
    images = torch.randn(1, 3, 32, 32)
    found = clip_from(theirs.state_dict()).model.encode_image(images)
    torch.testing.assert_close(found, theirs.encode_image(images), atol=1e-4, rtol=1e-4)
