"""Weights from a file, without ever running code from it.

These containers are read: safetensors, a torch checkpoint (state dict, or one under `state_dict` as open_clip's
trainer writes it, or under `model` as detectron2's does), and OpenAI's TorchScript archives. The last are zip files
whose `data.pkl` names the modules' classes; `torch.jit.load` would compile the code that comes with them, so their
tensors are read here by an unpickler that knows tensors, containers and nothing else.
"""

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from common.errors import UserError, in_short
from common.files import is_file

StateDict = dict[str, torch.Tensor]

SEGCLIP = "clip.visual.transformer.semantic_layer2.semantic_center"  # a weight that only a SegCLIP has
ACCEPTED = "an OpenAI CLIP archive or state dict (.pt), a safetensors file or an open_clip checkpoint"


@dataclass(frozen=True)
class Weights:
    """A state dict, a CLIP's in OpenAI's key names, and what its container says of it.

    container    "archive" (OpenAI TorchScript), "checkpoint" (a dict under `state_dict`), "model" (a dict under
                 `model`), "state_dict", "safetensors"
    fingerprint  first 16 hex digits of the file's SHA-256
    """

    state: StateDict
    container: str
    fingerprint: str


def read_weights(path: Path) -> Weights:
    """Read a weight file of a CLIP, of any accepted container. Raises UserError as `read_tensors`, and for others."""
    weights = read_tensors(path)
    if "visual.conv1.weight" not in weights.state or "token_embedding.weight" not in weights.state:
        if SEGCLIP in weights.state:
            raise UserError(f"{path}: the weights of a SegCLIP, which goes with --method segclip; expected {ACCEPTED}")
        names = in_short(", ".join(sorted(weights.state)[:2])) or "no tensors"
        raise UserError(f"{path}: not the weights of a CLIP (found {names}); expected {ACCEPTED}")
    return weights


def read_tensors(path: Path, expected: str = ACCEPTED) -> Weights:
    """Read the tensors of a weight file of any accepted container, whatever their names.

    expected  what the file should be, for messages
    Raises UserError, naming the file, when it is missing, truncated, of another kind, or holds anything but tensors.
    """
    if not is_file(path):
        raise UserError(f"{path}: no such weight file; expected {expected}")
    try:
        container, state = _read(path, expected)
    except UserError:
        raise
    except Exception as error:  # every reader has its own exceptions for a broken file
        reason = in_short(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read as weights ({reason}); expected {expected}") from error
    # Tensors only, without the `module.` that DistributedDataParallel puts before every name.
    named = {key: value for key, value in state.items() if isinstance(key, str) and torch.is_tensor(value)}
    tensors = {key.removeprefix("module."): value for key, value in named.items()}
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_complex() or value.is_quantized:
            kind = f"{value.dtype}, {value.device}, {value.layout}"
            raise UserError(f"{path}: weight {in_short(key)} is no array of real numbers ({kind}); expected {expected}")
    return Weights(tensors, container, fingerprint(path))


def fingerprint(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _read(path: Path, expected: str) -> tuple[str, dict[str, Any]]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return "safetensors", dict(load_file(path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return "archive", read_torchscript(path)
    else:
        with path.open("rb") as stream:
            if stream.read(1) != pickle.PROTO:
                raise ValueError("neither a zip file nor a pickle")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it holds more than tensors and would run code on loading; expected {expected}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not weights; expected {expected}")
    if isinstance(content.get("state_dict"), dict):
        return "checkpoint", content["state_dict"]
    if isinstance(content.get("model"), dict):
        return "model", content["model"]
    return "state_dict", content


class _Module:
    """Stands for any TorchScript module: keeps the attributes it is given and does nothing."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles a TorchScript `data.pkl`: tensors, containers, inert modules; every other name is refused."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        self._archive, self._prefix = archive, prefix
        self._storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the archive asks for {module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, dtype, key, _device, _count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("the archive refers to something else than its records")
        if (key, dtype) not in self._storages:
            record = bytearray(self._archive.read(f"{self._prefix}data/{key}"))
            self._storages[key, dtype] = torch.frombuffer(record, dtype=dtype)
        return self._storages[key, dtype]


def _view(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> torch.Tensor:
    return torch.as_strided(storage, size, stride, offset)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("collections", "OrderedDict"): lambda: OrderedDict(),
    ("torch.jit._pickle", "restore_type_tag"): lambda value, _tag: value,
    **{("torch.jit._pickle", f"build_{kind}list"): lambda value: value for kind in ("int", "bool", "double", "tensor")},
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "BoolStorage"): torch.bool,
}


def read_torchscript(path: Path) -> StateDict:
    """State dict of a TorchScript archive, read without compiling or running its code."""
    with zipfile.ZipFile(path) as archive:
        prefix = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        root = _TensorUnpickler(archive, prefix).load()
    if not isinstance(root, _Module):
        raise UserError(f"{path}: a TorchScript archive without a module; expected {ACCEPTED}")
    return dict(_tensors_below(root))


def _tensors_below(module: _Module, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a module and of those in it, by their path."""
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            yield from _tensors_below(value, f"{prefix}{name}.")
        elif torch.is_tensor(value):
            yield f"{prefix}{name}", value
