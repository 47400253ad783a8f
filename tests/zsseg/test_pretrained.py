"""Backbones to start from: every form gives the same weights, and what does not fit is told in one line."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.resnet import Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from common.errors import UserError
from tests.zsseg.small import small_maskformer
from zsseg.maskformer import MaskFormer
from zsseg.pretrained import detectron2_names, start_from
from zsseg.sizes import Sizes


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return TorchvisionResNet(Bottleneck, [1, 1, 1, 1]).state_dict()


def network() -> MaskFormer:
    sizes = Sizes(2, 16, 64, (1, 1, 1, 1), features=32, masks=8, hidden=16, heads=2, feedforward=8, layers=1, queries=2)
    return small_maskformer(sizes=sizes)


class Runs:
    def __reduce__(self) -> tuple:
        return print, ("run",)


@pytest.mark.slow
def test_torchvisions_and_detectron2s_files(theirs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "torchvision.pth")
    ours = detectron2_names(theirs)
    torch.save({"model": ours}, tmp_path / "detectron2.pth")
    arrays = {name: value.numpy() for name, value in ours.items()}
    for protocol in (2, 4):
        content = pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True}, protocol)
        (tmp_path / f"{protocol}.pkl").write_bytes(content)
    for name in ("torchvision.pth", "detectron2.pth", "2.pkl", "4.pkl"):
        loaded = network()
        assert start_from(loaded, str(tmp_path / name)).endswith("(the backbone)")
        found = loaded.backbone.state_dict()
        assert found.keys() == ours.keys() and all(found[key].equal(value) for key, value in ours.items())
    assert "fc.weight" in theirs and "stem.conv1.norm.running_var" in ours


def test_what_does_not_fit(theirs: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(name: str, content: Any) -> str:
        path = tmp_path / name
        if name.endswith(".pkl"):
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path)
        with pytest.raises(UserError) as raised:
            start_from(network(), str(path))
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
        return str(raised.value)

    assert "it asks for builtins.print" in says("a.pkl", {"model": {"x": Runs()}})
    assert "cannot be read as arrays" in says("a.pkl", [1])
    assert "would run code" in says("a.pth", {"x": Runs()})
    less = {name: value for name, value in theirs.items() if "layer3" not in name}
    assert "tensors are missing (res4.0.conv1" in says("a.pth", less)
    assert "2 tensors are left over (extra" in says(
        "a.pth", {**theirs, "extra.a": torch.ones(1), "extra.b": torch.ones(1)}
    )
    assert "1 tensors are of another shape (stem.conv1" in says(
        "a.pth", {**theirs, "conv1.weight": torch.ones(64, 3, 3, 3)}
    )
    assert "run" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file; expected a backbone's ImageNet weights"):
        start_from(network(), "ResNet51_Weights.X")
