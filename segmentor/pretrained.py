"""Weights to start from, by path or by name.

Whatever is wrong with them ends in a UserError that says which file to put where. No code in them is run.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import UserError
from segmentor.networks import Segmentor
from segmentor.settings import DEEPLABS, SEGFORMERS
from segmentor.weights import KEY, read_state

REACHED_S = 10  # within which the hub must answer
LAST = "4."  # layer of torchvision's classifier, which scores the classes it was trained for
READABLE = (".safetensors", ".bin", ".pt", ".pth")


def start_from(network: Segmentor, arch: str, source: str) -> str:
    """Load weights into a network of `arch`; returns what was loaded, for people.

    source  a weight file of ours (classes may differ), a folder or file in transformers' form, a file in torchvision's
            form (an ImageNet classifier or a DeepLabV3), or a name: of the Hugging Face hub for SegFormer
            (nvidia/mit-b0), of torchvision for DeepLab (ResNet101_Weights.IMAGENET1K_V2)
    """
    path = Path(source)
    if path.is_file():
        if path.suffix not in READABLE:
            raise UserError(f"--pretrained {path}: expected a file ending in {', '.join(READABLE)}, or a folder")
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt") as opened:
                    ours = KEY in (opened.metadata() or {})
            except (SafetensorError, OSError) as error:
                message = "cannot be read as safetensors (truncated?); get it again"
                raise UserError(f"--pretrained {path}: {message}") from error
            if ours:
                return _from_ours(network, arch, path)
    load = _from_transformers if arch in SEGFORMERS else _from_torchvision
    return load(network, arch, source)


def _from_ours(network: Segmentor, arch: str, path: Path) -> str:
    state, description = read_state(path)
    if description.arch != arch:
        raise UserError(f"--pretrained {path}: weights of a {description.arch}; pass --arch {description.arch}")
    wanted = network.state_dict()
    fitting = {name: state[name] for name in wanted if name in state and state[name].shape == wanted[name].shape}
    lost = [name for name in wanted if name not in fitting]
    for name in lost:
        if name.startswith("body.encoder."):
            raise UserError(f"--pretrained {path}: not the tensors of a {arch}: {name} is missing")
    network.load_state_dict(fitting, strict=False)
    if all(name.startswith("head.") for name in lost):
        return f"{path} ({'all but the head, whose classes are others' if lost else 'all'})"
    return f"{path} (all that fits: the decoder of another head has another width)"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file, by name; raises UserError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise UserError(f"--pretrained {path}: not a readable weight file (truncated, or more than weights)") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"--pretrained {path}: holds no state dict; expected tensors by name")
    return dict(content)


def _from_transformers(network: Segmentor, arch: str, source: str) -> str:
    """transformers knows the older names of its own tensors, so it does the loading."""
    from huggingface_hub import HfApi
    from transformers import SegformerForSemanticSegmentation
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = Path(source)
    tensors = read_tensors(path) if path.is_file() else None
    try:
        options: dict[str, Any] = {"config": network.body.config, "ignore_mismatched_sizes": True}
        load: Any = partial(SegformerForSemanticSegmentation.from_pretrained, **options, output_loading_info=True)
        if tensors is not None:
            model, info = load(None, state_dict=tensors)
        elif path.is_dir():
            model, info = load(source)
        else:
            try:
                model, info = load(source, local_files_only=True)
            except OSError:
                HfApi().repo_info(source, timeout=REACHED_S)  # fails at once where loading would try for minutes
                model, info = load(source)
    except Exception as error:  # of many libraries: no network, no such name, damaged files
        files = "config.json and model.safetensors"
        message = f"no weights of a SegFormer in this folder; expected {files} of nvidia/mit-b*"
        if not path.is_dir():
            files += f" (or pytorch_model.bin) of huggingface.co/{source}"
            message = f"not on this machine, and cannot be downloaded; put {files} into a folder and pass that"
        raise UserError(f"--pretrained {source}: {message}") from error
    unknown = {*info["missing_keys"], *(str(item[0]) for item in info["mismatched_keys"])}
    for name in sorted(unknown):
        if name.startswith("segformer."):
            raise UserError(f"--pretrained {source}: not the encoder of a {arch} ({name} does not fit)")
    network.body.encoder.load_state_dict(model.segformer.state_dict())
    if any(name.startswith("decode_head.l") for name in unknown):
        return f"{source} (the encoder)"  # the decoder starts as segmentor.networks draws it
    model.decode_head.classifier = nn.Identity()
    network.body.decode_head.load_state_dict(model.decode_head.state_dict())
    return f"{source} (encoder and decoder)"


def _from_torchvision(network: Segmentor, arch: str, source: str) -> str:
    state = read_tensors(Path(source)) if Path(source).is_file() else _downloaded(arch, source)
    with_decoder = any(name.startswith("backbone.") for name in state)
    encoder = _below(state, "backbone.") if with_decoder else _below(state, "features.") or state
    wanted = network.body.encoder.state_dict()
    for name, value in wanted.items():
        if name not in encoder or encoder[name].shape != value.shape:
            raise UserError(f"--pretrained {source}: not the encoder of a {arch} ({name} does not fit)")
    network.body.encoder.load_state_dict({name: encoder[name] for name in wanted})
    if not with_decoder:
        return f"{source} (the encoder)"
    decoder = {name: value for name, value in _below(state, "classifier.").items() if not name.startswith(LAST)}
    network.body.decode_head.load_state_dict(network.body.decode_head.state_dict() | decoder)
    return f"{source} (encoder and decoder)"


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _downloaded(arch: str, source: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    try:
        weights = get_weight(source)
    except (ValueError, KeyError, AttributeError) as error:
        example = "MobileNet_V3_Large" if "mobilenet" in arch else arch.split("-")[1].replace("resnet", "ResNet")
        raise UserError(
            f"--pretrained {source}: neither a file nor a name in torchvision; expected {DEEPLABS[arch]} weights or "
            f"such as {example}_Weights.IMAGENET1K_V2"
        ) from error
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # no network, a proxy, a full disk, a damaged file
        raise UserError(f"--pretrained {source}: cannot be downloaded; get {weights.url} and pass the file") from error
