"""Weight files of every container are read to the same tensors; what is refused is in test_refused_weights.py."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from clip.archive import fingerprint, read_weights
from clip.torchscript import read_torchscript
from tests.clip.oracle import open_clip_model
from tests.support import openai_state, tiny_model

State = dict[str, torch.Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.jit|Tracer|TorchScript|Python boolean)")


@pytest.fixture(scope="module")
def state() -> State:
    return openai_state(tiny_model(layers=1, text_layers=1))


def wrapped(state: State) -> dict[str, Any]:
    """As open_clip's trainer writes it with several GPUs."""
    named = {f"module.{key}": value for key, value in state.items()}
    return {"epoch": 3, "name": "run", "state_dict": named, "optimizer": {"lr": 0.1}}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("container", ["state_dict", "checkpoint", "safetensors", "old torch.save", "deflated"])
def test_every_container_gives_the_same_tensors(
    tmp_path: Path, state: State, container: str, dtype: torch.dtype
) -> None:
    state = {key: value.to(dtype) for key, value in state.items()}
    path = tmp_path / ("w.safetensors" if container == "safetensors" else "w.pt")
    if container == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        content = wrapped(state) if container == "checkpoint" else state
        torch.save(content, path, _use_new_zipfile_serialization=container != "old torch.save")
    if container == "deflated":  # torch.load reads such files, but cannot map them
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
    found = read_weights(path)
    assert found.container == ("state_dict" if container in ("old torch.save", "deflated") else container)
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[key], value) and found.state[key].dtype == dtype for key, value in state.items())


def test_values_that_are_no_tensors_are_left_out(tmp_path: Path, state: State) -> None:
    torch.save({**state, "epoch": 7, "comment": "none"}, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").state.keys() == state.keys()


def test_fingerprint_is_the_start_of_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(content)
    assert fingerprint(tmp_path / "file") == hashlib.sha256(content).hexdigest()[:16]


# --- OpenAI's TorchScript archives ---------------------------------------------------------------


def test_a_traced_clip_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    model = open_clip_model(layers=1, text_layers=1)
    path = tmp_path / "traced.pt"
    torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int64))).half().save(str(path))
    expected = torch.jit.load(str(path)).state_dict()
    found = read_weights(path)
    assert found.container == "archive"
    assert found.state.keys() == expected.keys()
    assert all(torch.equal(found.state[key], value) for key, value in expected.items())


class Odd(torch.nn.Module):
    """Attributes and tensors of every kind that an archive may hold."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.arange(24.0)
        self.weight = torch.nn.Parameter(table.view(4, 6).t())  # a transposed view
        self.register_buffer("part", table[5:9])  # a view of the same memory
        self.register_buffer("scalar", torch.tensor(224))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("short", torch.arange(3, dtype=torch.int32))
        self.register_buffer("fine", torch.tensor([[0.1]], dtype=torch.float64))
        self.register_buffer("brain", torch.tensor([1.5], dtype=torch.bfloat16))
        self.inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
        self.sizes: list[int] = [1, 2]
        self.rates: list[float] = [0.5]
        self.switches: list[bool] = [True]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.sizes[0] * self.rates[0] + float(self.switches[0])


def test_views_scalars_and_all_types_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    torch.jit.script(Odd()).save(str(path))
    expected, found = torch.jit.load(str(path)).state_dict(), read_torchscript(path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) and found[key].dtype == value.dtype, key
