"""A CLIP's weights from a file or a folder, without ever running code from it.

Three containers are read, whatever the file is called: safetensors, what torch.save writes, and OpenAI's TorchScript
archives. Where in them the CLIP lies is found in `clip/forms.py`; what a folder holds in `clip/folder.py`.
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clip.folder import ModelConfig, config_beside, other_mean, weight_files
from clip.forms import EXPECTED, ClipState, StateDict, all_tensors, find_clip
from clip.torchscript import read_torchscript
from common.errors import UserError, in_short

# The first bytes, in lower case, of files that hold no weights for torch, and what they are.
PAGE = "a web page; download the file itself (on Hugging Face: /resolve/ in the address, not /blob/)"
NO_WEIGHTS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"<!doctype": PAGE,
    b"<html": PAGE,
    b"gguf": "a file for llama.cpp (GGUF)",
    b"\x89hdf": "a file of Keras or TensorFlow (HDF5)",
}


class _Ignored:
    """In place of a value that is no weight. Nothing of its class is imported or run."""

    def __new__(cls, *_: object) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _IgnoredDict(_Ignored):
    """In place of a dictionary of another class."""

    def __new__(cls, *_: object) -> Any:
        return {}


# What trainers save beside the weights: settings, paths, numbers.
NO_TENSORS = """
argparse.Namespace pathlib.PosixPath pathlib.WindowsPath pathlib._local.PosixPath pathlib._local.WindowsPath
datetime.datetime datetime.timedelta builtins.dict builtins.list builtins.int builtins.str builtins.frozenset
builtins.slice torch.torch_version.TorchVersion numpy.dtype numpy.ndarray numpy.core.multiarray.scalar
numpy._core.multiarray.scalar numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct typing.Any
omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.base.ContainerMetadata
omegaconf.base.Metadata omegaconf.nodes.AnyNode
""".split()
DICTIONARIES = """
collections.defaultdict easydict.EasyDict pytorch_lightning.utilities.parsing.AttributeDict
lightning_fabric.utilities.data.AttributeDict lightning.fabric.utilities.data.AttributeDict
""".split()
HARMLESS: list[Any] = [
    *((_Ignored, name) for name in NO_TENSORS),
    *((_IgnoredDict, name) for name in DICTIONARIES),
]


@dataclass(frozen=True)
class Weights:
    """A state dict in OpenAI's key names, and what is known of it.

    container     "archive" (OpenAI TorchScript), "checkpoint" (a state dict in a dict), "state_dict", "safetensors"
    fingerprint   first 16 hex digits of the SHA-256 of the file, or of all parts one after another
    config        what the config beside the file says
    long_text     whether the text positions are Long-CLIP's
    notes         what a person should know, a line each
    name_in_file  from a key to what the file calls it
    """

    state: StateDict
    container: str
    fingerprint: str
    config: ModelConfig | None = None
    long_text: bool = False
    notes: tuple[str, ...] = ()
    name_in_file: Callable[[str], str] = str


def read_weights(path: Path) -> Weights:
    """Read the weights of a file of any form, or of a folder.

    Raises UserError, naming the file, when it is missing, truncated, of another kind, or holds anything but tensors.
    """
    files = weight_files(path)
    container, found = _read_clip(files.parts, path, mapped=True)
    size, of_clip = (
        sum(part.stat().st_size for part in files.parts),
        sum(value.nbytes for value in found.state.values()),
    )
    if container in ("state_dict", "checkpoint"):  # mapped: a file that is written again would change the weights
        if 2 * of_clip < size:  # an optimiser's state, which is not read
            found = replace(found, state={name: value.clone() for name, value in found.state.items()})
        else:
            container, found = _read_clip(files.parts, path, mapped=False)
    config = config_beside(files, found.hugging_face)
    notes = (*found.notes, *filter(None, [other_mean(config.mean if config else None)]))
    return Weights(
        found.state, container, fingerprint(*files.parts), config, found.long_text, notes, found.name_in_file
    )


def read_tensors(path: Path, expected: str = EXPECTED) -> Weights:
    """All tensors of a weight file under their own names, whatever model they are of; raises UserError as above.

    expected  "expected ...": what the file should be, for messages
    """
    files = weight_files(path, expected)
    container, content = _read_parts(files.parts, expected, mapped=False)
    return Weights(all_tensors(content), container, fingerprint(*files.parts))


def fingerprint(*paths: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file, or of several as if they were one."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _read_clip(parts: tuple[Path, ...], source: Path, mapped: bool) -> tuple[str, ClipState]:
    """The container and the CLIP in it. `mapped`: what torch.save wrote stays on the disk until it is used."""
    container, content = _read_parts(parts, EXPECTED, mapped)
    try:
        return container, find_clip(content, str(source))
    except (RuntimeError, IndexError) as error:  # torch's, for shapes that do not go together
        raise UserError(f"{source}: its weights do not have the shapes of a CLIP's; {EXPECTED}") from error


def _read_parts(parts: tuple[Path, ...], expected: str, mapped: bool) -> tuple[str, dict[Any, Any]]:
    container, content = "", {}
    for part in parts:
        try:
            container, tensors = _read_file(part, expected, mapped)
        except UserError:
            raise
        except Exception as error:  # every reader has its own exceptions for a broken file
            reason = in_short(error) or type(error).__name__
            raise UserError(f"{part}: cannot be read as weights ({reason}); {expected}") from error
        content.update(tensors)
    return container, content


def _read_file(path: Path, expected: str, mapped: bool) -> tuple[str, dict[Any, Any]]:
    with path.open("rb") as stream:
        start = stream.read(64)
    if not start.strip(b"\0 \r\n\t"):
        raise UserError(f"{path}: {'holds zeros alone' if start else 'an empty file'}; fetch it again")
    for mark, what in NO_WEIGHTS.items():
        if start.lstrip().lower().startswith(mark):
            raise UserError(f"{path}: {what}; {expected}")
    if start[8:9] == b"{":
        from safetensors import safe_open

        with safe_open(path, "pt", backend="pread") as opened:
            return "safetensors", opened.get_tensors()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            mapped &= all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return "archive", read_torchscript(path)
    elif start.startswith(b"PK"):
        raise UserError(f"{path}: cut short; fetch it again; {expected}")
    elif start[:1] != pickle.PROTO or start[1] > pickle.HIGHEST_PROTOCOL:
        raise ValueError("neither safetensors nor what torch.save writes")
    else:
        mapped = False
    return _read_torch(path, expected, mapped and path.suffix != ".safetensors")  # torch.load goes by that name


def _read_torch(path: Path, expected: str, mapped: bool) -> tuple[str, dict[Any, Any]]:
    try:
        with torch.serialization.safe_globals(HARMLESS), path.open("rb") as stream:
            source: Any = path if mapped else stream
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({in_short(named[1])})" if named else ""
        raise UserError(
            f"{path}: refused, it holds more than tensors{what} and would run code on loading; "
            f"save its state_dict() alone where you trust it; {expected}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not weights; {expected}")
    own = any(torch.is_tensor(value) for value in content.values())
    return "state_dict" if own else "checkpoint", content
