"""ImageNet weights for the backbone to start from, by file or by torchvision's name."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip.archive import read_tensors
from common.errors import UserError, in_short
from zsseg.checkpoint import fill, read_checkpoint
from zsseg.maskformer import MaskFormer

EXPECTED = "a backbone's ImageNet weights with torchvision's or detectron2's names (.pth, .safetensors, .pkl)"
ARRAY_PARTS: Mapping[tuple[str, str], Any] = {  # what a pickled array is made of
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, _encoding: text.encode("latin1"),
    ("collections", "OrderedDict"): OrderedDict,
}
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


def start_from(network: MaskFormer, source: str) -> str:
    """Load weights into a network; returns what was loaded, for people.

    source  a file of the backbone's weights, torchvision's name of some (ResNet50_Weights.IMAGENET1K_V1), or a whole
            MaskFormer with the same classes
    Raises UserError unless the file holds every tensor that is asked for, and none that there is no place for.
    """
    state = _tensors(source)
    if any(name.startswith("sem_seg_head.") for name in state):
        return _whole(network, Path(source))
    state = detectron2_names(state)
    wanted = network.backbone.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shaped = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    for what, names in (("missing", missing), ("left over", extra), ("of another shape", shaped)):
        if names:
            found = f"{len(names)} tensors are {what} ({in_short(', '.join(names[:3]))})"
            raise UserError(f"--pretrained {source}: not the backbone of this network: {found}; expected {EXPECTED}")
    network.backbone.load_state_dict(state)
    return f"{source} (the backbone)"


def _whole(network: MaskFormer, path: Path) -> str:
    """Every tensor of an earlier training, but for the prompts and what CLIP is told of regions."""
    theirs, ours = read_checkpoint(path, network.sizes.heads).network, network.sizes
    for field, words in (("classes", "classes"), ("text_width", "numbers a text embedding")):
        if getattr(theirs.sizes, field) != getattr(ours, field):
            known, expected = getattr(theirs.sizes, field), getattr(ours, field)
            raise UserError(f"--pretrained {path}: of {known} {words}, where this training has {expected}")
    parts = ("backbone.", "sem_seg_head.", "criterion.", "clip_adapter.non_object_embedding")
    state = {name: value for name, value in theirs.state_dict().items() if name.startswith(parts)}
    fill(network, {**network.state_dict(), **state}, path)
    return f"{path} (all of it)"


def _tensors(source: str) -> dict[str, Tensor]:
    path = Path(source)
    if not path.is_file():
        return _from_torchvision(source)
    try:
        return _arrays(path) if path.suffix == ".pkl" else read_tensors(path, EXPECTED).state
    except UserError as error:
        raise UserError(f"--pretrained {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays and containers; every other name is refused, so that nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        found = ARRAY_PARTS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return found


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a pickle under `model`, which is detectron2's form of backbones (R-50.pkl, R-103.pkl)."""
    try:
        with path.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
        arrays = content["model"]
        return {str(name): torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    except Exception as error:  # whatever wrong bytes lead to
        reason = in_short(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read as arrays ({reason}); expected {EXPECTED}") from error


def _from_torchvision(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        expected = f"expected {EXPECTED}, or a name of torchvision such as ResNet50_Weights.IMAGENET1K_V1"
        raise UserError(f"--pretrained {name}: no such file; {expected}") from error
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise UserError(f"--pretrained {name}: cannot be downloaded ({in_short(error)}); give its file") from error
