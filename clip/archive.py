"""Weights from a file, without ever running code from it. May import torch, safetensors and common.

Four containers are read: safetensors, a torch checkpoint (state dict, or one under `state_dict` as open_clip's
trainer writes it), and OpenAI's TorchScript archives. The last are zip files whose `data.pkl` names the modules'
classes; `torch.jit.load` would compile the code that comes with them, so their tensors are read here by an unpickler
that knows tensors, containers and nothing else.
"""

import hashlib
import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError

StateDict = dict[str, torch.Tensor]

ACCEPTED = "an OpenAI CLIP archive or state dict (.pt), a safetensors file or an open_clip checkpoint"


@dataclass(frozen=True)
class Weights:
    """A state dict in OpenAI's key names and what its container tells about it.

    container    "archive" (OpenAI TorchScript), "checkpoint" (a dict under `state_dict`), "state_dict", "safetensors"
    fingerprint  first 16 hex digits of the file's SHA-256
    """

    state: StateDict
    container: str
    fingerprint: str


def read_weights(path: Path) -> Weights:
    """Read a weight file of any accepted container.

    Raises UserError, naming the file, when it is missing, truncated, of another kind, or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; expected {ACCEPTED}")
    try:
        container, state = _read(path)
    except UserError:
        raise
    except Exception as error:  # every reader has its own exceptions for a broken file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: cannot be read as weights ({reason}); expected {ACCEPTED}") from error
    return Weights(_plain_names(state, path), container, fingerprint(path))


def fingerprint(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return "safetensors", dict(load_file(path))
    if zipfile.is_zipfile(path) and _is_torchscript(path):
        return "archive", read_torchscript(path)
    if not zipfile.is_zipfile(path) and _first_byte(path) != pickle.PROTO:
        raise ValueError("neither a zip file nor a pickle")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols; what is refused is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it holds more than tensors and would run code on loading; expected {ACCEPTED}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not weights; expected {ACCEPTED}")
    if isinstance(content.get("state_dict"), dict):
        return "checkpoint", content["state_dict"]
    return "state_dict", content


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1)


def _plain_names(state: dict[str, Any], path: Path) -> StateDict:
    """Tensors only, without the `module.` that DistributedDataParallel puts before every name."""
    tensors = {str(key).removeprefix("module."): value for key, value in state.items() if torch.is_tensor(value)}
    if "visual.conv1.weight" not in tensors or "token_embedding.weight" not in tensors:
        found = ", ".join(sorted(tensors)[:2]) or "no tensors"
        raise UserError(f"{path}: not the weights of a CLIP (found {found}); expected {ACCEPTED}")
    return tensors


# --- OpenAI's TorchScript archives ---------------------------------------------------------------


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Module:
    """Stands for any TorchScript module: keeps the attributes it is given and does nothing."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles a TorchScript `data.pkl`: tensors, containers, inert modules; every other name is refused."""

    def __init__(self, stream: io.BytesIO, read_record: Callable[[str], bytes]) -> None:
        super().__init__(stream)
        self._read_record = read_record

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        allowed: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _tag: value,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "bool", "double", "tensor")},
            **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"the archive asks for {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, dtype, key, _device, _count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"the archive refers to a {kind}")
        return torch.frombuffer(bytearray(self._read_record(f"data/{key}")), dtype=dtype)


_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def _rebuild_tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> torch.Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


def read_torchscript(path: Path) -> StateDict:
    """State dict of a TorchScript archive, read without compiling or running its code."""
    with zipfile.ZipFile(path) as archive:
        prefix = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        stream = io.BytesIO(archive.read(f"{prefix}data.pkl"))
        root = _TensorUnpickler(stream, lambda record: archive.read(prefix + record)).load()
    if not isinstance(root, _Module):
        raise UserError(f"{path}: a TorchScript archive without a module; expected {ACCEPTED}")
    return dict(_tensors_below(root, ""))


def _tensors_below(module: _Module, prefix: str) -> list[tuple[str, torch.Tensor]]:
    found: list[tuple[str, torch.Tensor]] = []
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            found += _tensors_below(value, f"{prefix}{name}.")
        elif torch.is_tensor(value):
            found.append((prefix + name, value))
    return found
