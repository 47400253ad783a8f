"""open_clip's own models with random weights: what ours have to agree with."""

from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg


@torch.no_grad()
def open_clip_model(seed: int = 0, quick_gelu: bool = True, text_layers: int = 2, **vision: Any) -> CLIP:
    """A small model in evaluation mode; its weights are far from their start. `vision` goes to CLIPVisionCfg."""
    torch.manual_seed(seed)
    sizes = {"layers": 3, "width": 64, "patch_size": 8, "image_size": 32, **vision}
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=text_layers)
    model = CLIP(32, CLIPVisionCfg(**sizes), text, quick_gelu=quick_gelu).eval().requires_grad_(False)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and name != "logit_scale":
            value.add_(0.1 * torch.randn_like(value))
    return model


def twin_of(state: dict[str, torch.Tensor], **sizes: Any) -> CLIP:
    """open_clip's model of these sizes with these weights, all of them."""
    model = open_clip_model(**sizes)
    model.load_state_dict(state)
    return model
