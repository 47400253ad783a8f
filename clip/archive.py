"""Weights from a file, without ever running code from it.

Four containers are read: safetensors, a torch checkpoint (state dict, or one under `state_dict` as open_clip's
trainer writes it), and OpenAI's TorchScript archives. The last are zip files whose `data.pkl` names the modules'
classes; `torch.jit.load` would compile the code that comes with them, so their tensors are read here by an unpickler
that knows tensors, containers and nothing else.

A file may claim to hold more than it does: compressed or shared data, tensors that repeat one number for ever. What it
makes of itself is therefore counted, and has to stay in proportion to its size.
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

from common.errors import UserError

StateDict = dict[str, torch.Tensor]

ACCEPTED = "an OpenAI CLIP archive or state dict (.pt), a safetensors file or an open_clip checkpoint"
MAX_GROWTH = 4  # bytes of tensors for a byte of the file; weights that share memory grow when they are read
SMALL_WEIGHTS = 64 * 1024**2  # what any file may grow to, such as small weights that are compressed
MAX_MODULES, MAX_DEPTH = 10_000, 32  # of a TorchScript archive; ViT-bigG has some 1,500, 8 deep
NUMBERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}


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
    if not _is_file(path):
        raise UserError(f"{path}: no such weight file; expected {ACCEPTED}")
    try:
        container, state = _read(path)
    except UserError:
        raise
    except Exception as error:  # every reader has its own exceptions for a broken file
        reason = plain(str(error)) or type(error).__name__
        raise UserError(f"{path}: cannot be read as weights ({reason}); expected {ACCEPTED}") from error
    return Weights(_checked(_plain_names(state, path), path), container, fingerprint(path))


def plain(text: str, length: int = 120) -> str:
    """Foreign text for a message: in one line, cut, and with control characters escaped."""
    return ascii(" ".join(text.split())[:length])[1:-1]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for a file
        return False


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
    if zipfile.is_zipfile(path):
        _check_records(path)
    elif _first_byte(path) != pickle.PROTO:
        raise ValueError("neither a zip file nor a pickle")
    try:
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


def _check_records(path: Path) -> None:
    """Raise ValueError for a torch.save file whose records share bytes, or unfold to more than a file may hold.

    Compressed records are welcome: the toy world's weights have them.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if sum(record.compress_size for record in records) > path.stat().st_size:
        raise ValueError("records that share their bytes")
    if sum(record.file_size for record in records) > _most(path.stat().st_size):
        raise ValueError("records that unfold to far more than the file")


def _stored_size(record: zipfile.ZipInfo) -> int:
    """Bytes of a record of a TorchScript archive, which PyTorch never compresses."""
    if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
        raise ValueError("a compressed record, as PyTorch writes none")
    return record.file_size


def _most(size: int) -> int:
    """Bytes that the weights in a file of so many bytes may take."""
    return max(SMALL_WEIGHTS, MAX_GROWTH * size)


def _plain_names(state: dict[str, Any], path: Path) -> StateDict:
    """Tensors only, without the `module.` that DistributedDataParallel puts before every name."""
    named = {key: value for key, value in state.items() if isinstance(key, str) and torch.is_tensor(value)}
    tensors = {key.removeprefix("module."): value for key, value in named.items()}
    if "visual.conv1.weight" not in tensors or "token_embedding.weight" not in tensors:
        found = plain(", ".join(sorted(tensors)[:2])) or "no tensors"
        raise UserError(f"{path}: not the weights of a CLIP (found {found}); expected {ACCEPTED}")
    return tensors


def _checked(tensors: StateDict, path: Path) -> StateDict:
    """The tensors; raises UserError unless they are plain numbers in memory, and as many as the file can hold."""
    for key, value in tensors.items():
        dense = value.layout is torch.strided and value.device.type == "cpu" and value.numel() > 0
        if not dense or not (value.dtype.is_floating_point or value.dtype in NUMBERS):
            kind = f"{str(value.dtype).removeprefix('torch.')}, {value.device.type}, {tuple(value.shape)[:6]}"
            raise UserError(f"{path}: weight {plain(key)} is no array of real numbers ({kind}); expected {ACCEPTED}")
    if sum(value.numel() * value.element_size() for value in tensors.values()) > _most(path.stat().st_size):
        raise UserError(f"{path}: its weights claim to be larger than the file; expected {ACCEPTED}")
    return tensors


# --- OpenAI's TorchScript archives ---------------------------------------------------------------


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Module:
    """Stands for any TorchScript module: keeps the attributes it is given and does nothing."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _TensorUnpickler(pickle._Unpickler):
    """Unpickles a TorchScript `data.pkl`: tensors, containers, inert modules; every other name is refused.

    It is the one in Python, because the one in C takes 64 GB for a memo whose place is said to be 2**32.
    """

    def __init__(self, archive: zipfile.ZipFile, prefix: str, size: int) -> None:
        self._archive, self._prefix, self._size = archive, prefix, size
        self._read, self._built = 0, 0  # bytes of records and of tensors
        self._storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        super().__init__(io.BytesIO(self._record("data.pkl")))

    def _record(self, name: str) -> bytes:
        record = self._archive.getinfo(self._prefix + name)
        self._read += _stored_size(record)
        if self._read > self._size:
            raise ValueError("records that share their bytes")
        return self._archive.read(record)

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        allowed: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("collections", "OrderedDict"): lambda: OrderedDict(),
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _tag: value,
            **{("torch.jit._pickle", f"build_{kind}list"): lambda value: value for kind in _LISTS},
            **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"the archive asks for {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, dtype, key, _device, _count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("the archive refers to something else than its records")
        if (key, dtype) not in self._storages:
            self._storages[key, dtype] = torch.frombuffer(bytearray(self._record(f"data/{key}")), dtype=dtype)
        return self._storages[key, dtype]

    def _tensor(self, storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> torch.Tensor:
        view = torch.as_strided(storage, size, stride, offset)
        self._built += view.numel() * view.element_size()
        if self._built > MAX_GROWTH * self._size:
            raise ValueError("tensors larger than the file")
        return view


_LISTS = ("int", "bool", "double", "tensor")
_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def read_torchscript(path: Path) -> StateDict:
    """State dict of a TorchScript archive, read without compiling or running its code."""
    with zipfile.ZipFile(path) as archive:
        prefix = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        root = _TensorUnpickler(archive, prefix, path.stat().st_size).load()
    if not isinstance(root, _Module):
        raise UserError(f"{path}: a TorchScript archive without a module; expected {ACCEPTED}")
    return dict(_tensors_below(root))


def _tensors_below(root: _Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors by their path. Raises ValueError where modules hold one another, so that there is no end."""
    waiting: list[tuple[tuple[str, ...], _Module]] = [((), root)]
    visited = 0
    while waiting:
        path, module = waiting.pop()
        visited += 1
        if visited > MAX_MODULES or len(path) > MAX_DEPTH:
            raise ValueError("modules within modules without end")
        for name, value in module.attributes.items():
            if isinstance(value, _Module):
                waiting.append(((*path, str(name)), value))
            elif torch.is_tensor(value):
                yield ".".join((*path, str(name))), value
