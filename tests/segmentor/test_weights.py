"""The weight file: a round trip, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from segmentor.networks import build
from segmentor.weights import Description, read_weights, write_weights

LABELS = ("background", "dog", "cat")
TOLD = Description("segformer-tiny", LABELS, "clip", 7)


def test_a_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build("segformer-tiny", 3).eval()
    write_weights(tmp_path / "w.safetensors", network.state_dict(), TOLD)
    again, description = read_weights(tmp_path / "w.safetensors")
    assert description == TOLD and not again.training
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert again(images).equal(network(images))


def header(**changes: object) -> dict[str, str]:
    told = {"format": 1, "arch": "segformer-tiny", "labels": ["a", "b"], "normalisation": "clip", "iterations": 1}
    return {"segmentor": json.dumps({**told, **changes})}


REFUSED = [
    ({}, "does not say which network"),
    ({"segmentor": "[1]"}, "does not say which network"),
    (header(arch="segformer-b9"), "arch 'segformer-b9' is unknown"),
    (header(normalisation="mine"), "normalisation 'mine' is unknown"),
    (header(format=9), "another version"),
    (header(colour="red"), "does not say which network"),
    (header(), "tensors are not those of a segformer-tiny"),
    (header(head="mine"), "head 'mine' is unknown"),
]


@pytest.mark.parametrize(("metadata", "words"), REFUSED)
def test_other_files_are_refused_in_one_line(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(UserError, match=words) as error:
        read_weights(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_what_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello", (1 << 40).to_bytes(8, "little") + b"{}"):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as safetensors"):
            read_weights(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="no such weight file"):
        read_weights(tmp_path / "none.safetensors")
