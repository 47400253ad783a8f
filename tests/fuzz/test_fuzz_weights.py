"""Weight files of every container: any bytes, any headers, tensors that are none, models of any shape.

What runs code is in tests/clip/test_refused_weights.py.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given

from clip.archive import Weights, read_weights
from clip.load import load_clip
from common.errors import UserError
from tests.fuzz.support import any_bytes, check_message, patience, read_or_refuse
from tests.support import openai_state, tiny_model

pytestmark = pytest.mark.slow

State = dict[str, torch.Tensor]
STATE = {"visual.conv1.weight": torch.arange(12.0).view(2, 6).half(), "token_embedding.weight": torch.ones(3, 2).half()}


def saved(content: Any, old: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not old)
    return stream.getvalue()


class Pickler(pickle.Pickler):
    """Writes a TorchScript `data.pkl` by hand: modules are `Module`, a storage is a tuple."""

    def persistent_id(self, item: object) -> object:
        return item if isinstance(item, tuple) and item[:1] == ("storage",) else None


class Module:
    """Pickled as a module of the archive, with these attributes."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__ = attributes


class Tensor:
    """Pickled as a tensor on a storage: kind, record, offset, size, stride."""

    def __init__(
        self, record: str, offset: object, size: object, stride: object, kind: Any = torch.FloatStorage
    ) -> None:
        self.arguments: tuple[object, ...] = (("storage", kind, record, "cpu", 2), offset, size, stride, False, {})

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


def pickled(root: object) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(root)
    here = f"c{Module.__module__}\nModule\n".encode()
    return stream.getvalue().replace(here, b"c__torch__\nModule\n")


def archive(data: bytes, /, **records: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as out:
        for name, content in {"data.pkl": data, "constants.pkl": b"", "version": b"3\n"}.items():
            out.writestr(f"x/{name}", content)
        for name, content in records.items():
            out.writestr(f"x/data/{name[1:]}", content)
    return stream.getvalue()


FLOATS = struct.pack("<6f", *range(6))
VISUAL = Module(conv1=Module(weight=Tensor("0", 0, (2, 3), (3, 1))))
CLIP = Module(visual=VISUAL, token_embedding=Module(weight=Tensor("0", 2, (2, 2), (2, 1))))
TRACED = archive(pickled(CLIP), _0=FLOATS)
WHOLE = {
    "w.pt": [saved(STATE), saved({"state_dict": STATE, "epoch": 3}), saved(STATE, old=True), TRACED],
    "w.safetensors": [safetensors.torch.save(STATE)],
}


def check(name: str, data: bytes) -> Weights | None:
    weights = read_or_refuse(read_weights, Path(name), data)
    if weights is not None:
        assert {"visual.conv1.weight", "token_embedding.weight"} <= weights.state.keys()
        assert all(type(key) is str and value.dtype for key, value in weights.state.items())
    return weights


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_read(name: str) -> None:
    for data in WHOLE[name]:
        weights = check(name, data)
        assert weights is not None and weights.state.keys() == STATE.keys()
        if data is not TRACED:
            assert all(torch.equal(weights.state[key], value) for key, value in STATE.items())
        else:
            assert weights.state["token_embedding.weight"].tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize("name", WHOLE)
def test_any_bytes(name: str) -> None:
    @given(any_bytes(*WHOLE[name]))
    def any_bytes_there(data: bytes) -> None:
        check(name, data)

    any_bytes_there()


@given(any_bytes(pickled(CLIP)))
def test_any_pickle_in_a_traced_archive(data: bytes) -> None:
    """The checksum of a zip file would otherwise keep most mutations from getting far."""
    check("w.pt", archive(data, _0=FLOATS))


# --- archives ---------------------------------------------------------------------------------------


def endless() -> Module:
    module = Module()
    module.__dict__.update(visual=module)
    return module


def clip_with(**more: object) -> bytes:
    return pickled(Module(**vars(CLIP), **more))


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a tensor beyond its record": lambda: archive(clip_with(x=Tensor("0", 5, (2,), (1,))), _0=FLOATS),
    "a stride beyond its record": lambda: archive(clip_with(x=Tensor("0", 0, (2,), (1 << 40,))), _0=FLOATS),
    "sizes below zero": lambda: archive(clip_with(x=Tensor("0", 0, (-2,), (1,))), _0=FLOATS),
    "a module in itself": lambda: archive(pickled(endless()), _0=FLOATS),
    "a record elsewhere": lambda: archive(clip_with(x=Tensor("../../version", 0, (1,), (1,))), _0=FLOATS),
    "a record that is none": lambda: archive(clip_with(x=Tensor("7", 0, (1,), (1,))), _0=FLOATS),
    "no module": lambda: archive(pickle.dumps({"visual": 3}, 2)),
    "an odd storage": lambda: archive(clip_with(x=Tensor("0", 0, (1,), (1,), "float")), _0=FLOATS),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_broken_archives_are_refused(name: str) -> None:
    assert check("w.pt", ARCHIVES[name]()) is None


def test_views_of_one_record_are_read() -> None:
    """Otherwise the test above would prove nothing."""
    weights = check("w.pt", archive(clip_with(x=Tensor("0", 1, (2, 2), (2, 1))), _0=FLOATS))
    assert weights is not None and weights.state["x"].tolist() == [[1, 2], [3, 4]]


# --- content ----------------------------------------------------------------------------------------


CONTENT: dict[str, Callable[[], object]] = {
    "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (1 << 30, 1 << 30)),
    "on no device": lambda: torch.empty(1 << 40, device="meta"),
    "complex": lambda: torch.zeros(2, dtype=torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("old", [False, True])
def test_tensors_that_are_no_numbers_in_memory_are_refused(kind: str, old: bool) -> None:
    assert check("w.pt", saved({**STATE, "x": CONTENT[kind]()}, old)) is None


# --- models -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> State:
    """A CLIP small enough to be saved in every example."""
    state = openai_state(tiny_model(layers=1, text_layers=1))
    return {**state, "token_embedding.weight": state["token_embedding.weight"][:9].clone()}


def load_or_refuse(state: State) -> Any:
    torch.save(state, "w.pt")
    try:
        with patience():
            return load_clip("w.pt")
    except UserError as error:
        check_message(str(error), "w.pt")
        return None


def test_the_small_model_is_loaded(small: State) -> None:
    assert load_or_refuse(small) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [("visual.conv1.weight", float("nan")), ("ln_final.bias", float("inf")), ("logit_scale", float("nan")),
     ("logit_scale", 1e30), ("token_embedding.weight", -float("inf"))],
)  # fmt: skip
def test_weights_that_are_not_finite_are_refused(small: State, key: str, value: float) -> None:
    broken = small[key].float().clone()
    broken.view(-1)[0] = value
    assert load_or_refuse({**small, key: broken}) is None
