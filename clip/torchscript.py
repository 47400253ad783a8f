"""The tensors of OpenAI's TorchScript archives, read without compiling or running their code.

They are zip files whose `data.pkl` names the modules' classes; `torch.jit.load` would compile the code that comes with
them, so their tensors are read here by an unpickler that knows tensors, containers and nothing else.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from common.errors import UserError

StateDict = dict[str, torch.Tensor]


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
        raise UserError(f"{path}: a TorchScript archive without a module")
    return dict(_tensors_below(root))


def _tensors_below(module: _Module, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a module and of those in it, by their path."""
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            yield from _tensors_below(value, f"{prefix}{name}.")
        elif torch.is_tensor(value):
            yield f"{prefix}{name}", value
