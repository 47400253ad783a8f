"""Weights to start from: of transformers, of torchvision, of an earlier run; and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UserError
from segmentor.networks import Segmentor, build, segformer_config
from segmentor.pretrained import start_from
from segmentor.weights import Description, write_weights

TINY = "segformer-tiny"


@pytest.fixture(scope="module")
def theirs() -> Any:
    """A whole SegFormer of transformers of the tiny size, with five classes."""
    from transformers import SegformerForSemanticSegmentation

    torch.manual_seed(3)
    config = segformer_config(TINY)
    config.num_labels = 5
    return SegformerForSemanticSegmentation(config).eval()


def fresh(labels: int = 3) -> Segmentor:
    torch.manual_seed(9)
    return build(TINY, labels)


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(value.equal(ours[name]) for name, value in theirs.items())


def test_a_folder_of_transformers(tmp_path: Path, theirs: Any) -> None:
    theirs.save_pretrained(tmp_path)
    network = fresh().eval()
    own_head = network.head.weight.clone()
    assert start_from(network, TINY, str(tmp_path)) == f"{tmp_path} (encoder and decoder)"
    images = torch.randn(1, 3, 64, 64)
    theirs.decode_head.classifier, kept = nn.Identity(), theirs.decode_head.classifier
    with torch.no_grad():
        torch.testing.assert_close(network.body(images), theirs(images).logits)
    theirs.decode_head.classifier = kept
    assert network.head.weight.equal(own_head)


def test_an_imagenet_encoder_alone(tmp_path: Path, theirs: Any) -> None:
    """As nvidia/mit-b*: a classifier, whose encoder is taken."""
    from transformers import SegformerForImageClassification

    whole = SegformerForImageClassification(segformer_config(TINY))
    whole.save_pretrained(tmp_path)
    network = fresh()
    assert "(the encoder)" in start_from(network, TINY, str(tmp_path))
    assert same(network.body.encoder, whole.segformer)


def test_a_file_of_tensors_by_itself(tmp_path: Path, theirs: Any) -> None:
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    network = fresh()
    start_from(network, TINY, str(tmp_path / "pytorch_model.bin"))
    assert same(network.body.encoder, theirs.segformer)


def test_a_text_head_starts_from_the_encoder(tmp_path: Path, theirs: Any) -> None:
    """Its decoder has another width, and starts as it was drawn."""
    theirs.save_pretrained(tmp_path)
    torch.manual_seed(9)
    network = build(TINY, 3, "text", text_width=16)
    drawn = {name: value.clone() for name, value in network.body.decode_head.state_dict().items()}
    assert start_from(network, TINY, str(tmp_path)) == f"{tmp_path} (the encoder)"
    assert same(network.body.encoder, theirs.segformer)
    assert all(value.equal(drawn[name]) for name, value in network.body.decode_head.state_dict().items())


def test_a_text_head_starts_from_an_earlier_run(tmp_path: Path) -> None:
    """Of a linear head: the encoder; of a text head: all, and the classes' embeddings are told afterwards."""
    path, earlier = tmp_path / "weights.safetensors", fresh(3)
    write_weights(path, earlier.state_dict(), Description(TINY, tuple("abc"), "imagenet", 1))
    torch.manual_seed(1)
    network = build(TINY, 3, "text", text_width=16)
    assert "all that fits" in start_from(network, TINY, str(path))
    assert same(network.body.encoder, earlier.body.encoder)
    told = Description(TINY, tuple("abc"), "imagenet", 1, "text", text_width=16)
    write_weights(path, network.state_dict(), told)
    assert start_from(build(TINY, 3, "text", text_width=16), TINY, str(path)) == f"{path} (all)"


@pytest.mark.parametrize("labels", [3, 4])
def test_an_earlier_run_of_ours(tmp_path: Path, labels: int) -> None:
    """Its head too, where it has the same number of labels."""
    path, earlier = tmp_path / "weights.safetensors", fresh(3)
    names = tuple("abc")
    with torch.no_grad():
        earlier.head.weight.add_(1)
    write_weights(path, earlier.state_dict(), Description(TINY, names, "imagenet", 1))
    torch.manual_seed(1)
    network = build(TINY, labels)
    told = start_from(network, TINY, str(path))
    assert ("all but the head" in told) == (labels == 4)
    assert network.body.state_dict()["decode_head.linear_fuse.weight"].equal(
        earlier.body.state_dict()["decode_head.linear_fuse.weight"]
    )
    assert network.head.weight.shape[0] == labels
    assert network.head.weight.shape != earlier.head.weight.shape or network.head.weight.equal(earlier.head.weight)


@pytest.mark.slow
def test_torchvisions_files(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_large
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    arch = "deeplabv3-mobilenet"
    classifier = mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "imagenet.pth")
    network = build(arch, 4)
    assert "(the encoder)" in start_from(network, arch, str(tmp_path / "imagenet.pth"))
    assert network.body.encoder.state_dict()["0.0.weight"].equal(classifier.state_dict()["features.0.0.weight"])

    whole = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(whole.state_dict(), tmp_path / "voc.pth")
    network = build(arch, 4)
    assert "(encoder and decoder)" in start_from(network, arch, str(tmp_path / "voc.pth"))
    assert network.body.decode_head.state_dict()["1.weight"].equal(whole.state_dict()["classifier.1.weight"])
    assert network.body.encoder.state_dict()["3.block.0.0.weight"].equal(
        whole.state_dict()["backbone.3.block.0.0.weight"]
    )


class Runs:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_is_run(tmp_path: Path) -> None:
    torch.save({"x": Runs(tmp_path / "was_run")}, tmp_path / "bad.pt")
    for arch in (TINY, "deeplabv3-mobilenet"):
        with pytest.raises(UserError, match="not a readable weight file"):
            start_from(build(arch, 2), arch, str(tmp_path / "bad.pt"))
    assert not (tmp_path / "was_run").exists()


def one_line(source: str, arch: str = TINY) -> str:
    with pytest.raises(UserError) as error:
        start_from(build(arch, 2), arch, source)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--pretrained {source}")
    return str(error.value)


def no_network(*_: object, **__: object) -> None:
    raise ConnectionError("Name or service not known")


def test_what_is_refused(tmp_path: Path, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", no_network)
    (tmp_path / "empty").mkdir()
    assert "no weights of a SegFormer in this folder" in one_line(str(tmp_path / "empty"))
    assert "huggingface.co/nvidia/mit-b9" in one_line("nvidia/mit-b9")
    assert "neither a file nor a name in torchvision" in one_line("resnet", "deeplabv3-resnet50")
    (tmp_path / "w.zip").write_text("x")
    assert "expected a file ending in .safetensors" in one_line(str(tmp_path / "w.zip"))
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no state dict" in one_line(str(tmp_path / "list.pt"))
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    assert "does not fit" in one_line(str(tmp_path / "other.pt"), "deeplabv3-mobilenet")
    assert "does not fit" in one_line(str(tmp_path / "other.pt"))


def test_another_size_is_refused(tmp_path: Path, theirs: Any) -> None:
    theirs.save_pretrained(tmp_path)
    network = build("segformer-b0", 3)
    with pytest.raises(UserError, match="not the encoder of a segformer-b0"):
        start_from(network, "segformer-b0", str(tmp_path))
    write_weights(tmp_path / "w.safetensors", fresh().state_dict(), Description(TINY, ("a", "b", "c"), "clip", 1))
    with pytest.raises(UserError, match="pass --arch segformer-tiny"):
        start_from(network, "segformer-b0", str(tmp_path / "w.safetensors"))
