"""ImageNet weights for the backbone to start from, by file or by torchvision's name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, in_short
from zsseg.maskformer import MaskFormer

READABLE = (".safetensors", ".pt", ".pth")
TORCHVISION = {  # parts of names: theirs and ours
    "conv1.": "stem.conv1.",
    "bn1.": "stem.conv1.norm.",
    "layer1.": "res2.",
    "layer2.": "res3.",
    "layer3.": "res4.",
    "layer4.": "res5.",
}
IN_BLOCKS = {
    ".bn1.": ".conv1.norm.",
    ".bn2.": ".conv2.norm.",
    ".bn3.": ".conv3.norm.",
    ".downsample.0.": ".shortcut.",
    ".downsample.1.": ".shortcut.norm.",
}
NOT_USED = ("fc.", "stem.fc.", "linear.")  # an ImageNet classifier's last layer


def detectron2_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's tensors by our names, from torchvision's or detectron2's; without the classifier and counters."""
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("backbone.")
        if name.startswith(NOT_USED) or name.endswith("num_batches_tracked"):
            continue
        theirs = next((part for part in TORCHVISION if name.startswith(part)), None)
        if theirs:
            name = TORCHVISION[theirs] + name.removeprefix(theirs)
            for before, after in IN_BLOCKS.items():
                name = name.replace(before, after)
        renamed[name] = value
    return renamed


def start_from(network: MaskFormer, source: str) -> None:
    """Load a backbone into a network: a file, or a name of torchvision (ResNet50_Weights.IMAGENET1K_V1).

    Raises UserError unless the file holds every tensor of the backbone, and none that it has no place for.
    """
    state = detectron2_names(_tensors(source))
    wanted = network.backbone.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shaped = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    for what, names in (("missing", missing), ("left over", extra), ("of another shape", shaped)):
        if names:
            found = f"{len(names)} tensors are {what} ({in_short(', '.join(names[:3]))})"
            raise UserError(f"--pretrained {source}: not the backbone of this network: {found}")
    network.backbone.load_state_dict(state)


def _tensors(source: str) -> dict[str, Tensor]:
    path = Path(source)
    if not path.is_file():
        return _from_torchvision(source)
    if path.suffix not in READABLE:
        raise UserError(f"--pretrained {path}: expected a file ending in {', '.join(READABLE)}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own exceptions for a broken file
        reason = in_short(error) or type(error).__name__
        raise UserError(f"--pretrained {path}: cannot be read as tensors ({reason})") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError(f"--pretrained {path}: holds a {type(content).__name__}, not weights")
    return {str(name): value for name, value in content.items() if torch.is_tensor(value)}


def _from_torchvision(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        expected = "expected a file, or a name of torchvision such as ResNet50_Weights.IMAGENET1K_V1"
        raise UserError(f"--pretrained {name}: no such file; {expected}") from error
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise UserError(f"--pretrained {name}: cannot be downloaded ({in_short(error)}); give its file") from error
