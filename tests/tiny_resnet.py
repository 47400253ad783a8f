"""A small random CLIP with a ResNet, for the tests of what takes one."""

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from clip.load import Clip
from tests.support import clip_from


def tiny_resnet_model(seed: int = 0, side: int = 64, layers: tuple[int, ...] = (1, 2, 1, 1)) -> CLIP:
    """Width 16, cells of 32 pixels (native grid 2x2 at side 64); batch norms and positions far from their start."""
    torch.manual_seed(seed)
    vision = CLIPVisionCfg(layers=layers, width=16, image_size=side, head_width=64)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2)
    model = CLIP(32, vision, text, quick_gelu=True).eval().requires_grad_(False)
    for name, tensor in model.visual.state_dict().items():
        if "running_mean" in name:
            tensor.normal_(0, 0.3)
        elif "running_var" in name or name.endswith("bn3.weight"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("positional_embedding"):
            tensor.normal_(0, 0.5)
    return model


def tiny_resnet_clip() -> Clip:
    return clip_from(tiny_resnet_model().state_dict(), "tiny-resnet")
