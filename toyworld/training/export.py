"""Weights as a file in OpenAI's state-dict form, small and byte for byte repeatable.

Float16; rows of the token embedding that no caption used are exactly zero (a loader can tell them by that and warn).
What torch.save writes is zipped again with DEFLATE: the zero rows then cost nothing, and torch.load still reads it.
"""

import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from common.files import atomic_write
from toyworld.training.captions import Vocabulary
from toyworld.training.model import CONTEXT_LENGTH, ToyClip

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can carry


def openai_state_dict(model: ToyClip, words: Vocabulary) -> dict[str, Tensor]:
    """float16 tensors by OpenAI's names, with the full token embedding and the three sizes OpenAI's archives carry."""
    state = {name: value.detach().half() for name, value in model.state_dict().items()}
    used = state["token_embedding.weight"]
    full = torch.zeros(words.size, used.shape[1], dtype=torch.float16)
    full[words.token_ids] = used
    state["token_embedding.weight"] = full
    resolution = model.visual.grid * model.visual.conv1.kernel_size[0]
    sizes = {"input_resolution": resolution, "context_length": CONTEXT_LENGTH, "vocab_size": words.size}
    return state | {name: torch.tensor(value) for name, value in sizes.items()}


def deflated(state: dict[str, Tensor]) -> bytes:
    """What torch.save writes, compressed, with fixed times."""
    plain, small = io.BytesIO(), io.BytesIO()
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(small, "w") as target:
        for name in source.namelist():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(name), compresslevel=9)
    return small.getvalue()


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write the file, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(deflated(state))
