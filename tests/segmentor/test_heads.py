"""The text head: scores against a loop, what of it is learned, and its networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmentor.networks import TextHead, build
from segmentor.trainer import optimizer_for
from segmentor.weights import Description, read_weights, write_weights
from tests.segmentor.small import settings


def unit_vectors(count: int, width: int) -> Tensor:
    torch.manual_seed(5)
    return nn.functional.normalize(torch.randn(count, width), dim=1)


def text_head(width: int, classes: int, background: bool) -> TextHead:
    head = TextHead(width, classes, background)
    head.set_embeddings(unit_vectors(classes, width))
    return head


@pytest.mark.parametrize("background", [False, True])
def test_scores_pixel_by_pixel(background: bool) -> None:
    """Neither the features nor the scores are scaled by anything."""
    head, features = text_head(4, 3, background), 5 * torch.randn(2, 4, 2, 3)
    vectors = unit_vectors(3, 4).numpy()
    if background:
        assert head.background is not None
        own = head.background.detach().numpy()
        vectors = np.concatenate([own / np.linalg.norm(own), vectors])
    found = head(features).detach().numpy()
    assert found.shape == (2, 3 + background, 2, 3)
    for image, label, row, column in np.ndindex(found.shape):
        wanted = sum(features[image, d, row, column].item() * vectors[label, d] for d in range(4))
        assert found[image, label, row, column] == pytest.approx(wanted, abs=1e-5)


def test_only_the_background_is_learned() -> None:
    head = text_head(4, 3, background=True)
    before = head.embeddings.clone()
    assert head.background is not None
    assert [name for name, _ in head.named_parameters()] == ["background"]
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    start = head.background.detach().clone()
    head(torch.randn(1, 4, 2, 2)).square().sum().backward()
    optimizer.step()
    assert head.embeddings.equal(before) and not head.embeddings.requires_grad
    assert not head.background.equal(start)
    assert torch.allclose(head.vectors().norm(dim=1), torch.ones(4))  # also once it was learned


@pytest.mark.parametrize(("arch", "least"), [("segformer-tiny", 0.0), ("deeplabv3-mobilenet", None)])
def test_networks_have_features_as_wide_as_the_text(arch: str, least: float | None) -> None:
    torch.manual_seed(0)
    network = build(arch, 4, "text", text_width=24, background=True).eval()
    with torch.no_grad():
        features = network.body(torch.randn(1, 3, 64, 64))
        assert features.shape[1] == network.body.width == 24
        assert network(torch.randn(1, 3, 64, 64)).shape[1] == 4
    assert (features.amin() >= 0) == (least == 0)  # SegFormer's fused features come out of a ReLU, DeepLab's do not
    dropouts = [module for name, module in network.body.decode_head.named_modules() if isinstance(module, nn.Dropout)]
    assert arch != "segformer-tiny" or all(module.p == 0 for module in dropouts)


def test_published_networks_with_a_text_head() -> None:
    """MiT-b5 with ViT-B/16's text: no inner dropout, D of 512; the whole decoder learns at the head's rate."""
    with torch.device("meta"):
        network = build("segformer-b5", 59, "text", text_width=512, background=False)
        plain = build("segformer-b5", 59)
    assert network.body.decode_head.dropout.p == 0 and plain.body.decode_head.dropout.p == 0.1  # type: ignore[union-attr]
    assert network.body.decode_head.linear_fuse.out_channels == 512  # type: ignore[union-attr]
    groups = optimizer_for(network, settings(head_factor=10.0)).param_groups
    fast = {id(weight) for group in groups if group["factor"] == 10 for weight in group["params"]}
    assert fast == {id(weight) for weight in network.body.decode_head.parameters()}


@pytest.mark.parametrize("background", [False, True])
def test_the_weights_are_read_without_a_clip(tmp_path: Path, background: bool) -> None:
    torch.manual_seed(2)
    network = build("segformer-tiny", 3, "text", 16, background).eval()
    assert isinstance(network.head, TextHead)
    network.head.set_embeddings(unit_vectors(3 - background, 16))
    told = Description(
        "segformer-tiny", ("a", "b", "c"), "clip", 7, "text", text_width=16, background=background
    )  # fmt: skip
    write_weights(tmp_path / "w.safetensors", network.state_dict(), told)
    again, description = read_weights(tmp_path / "w.safetensors")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert description == told and again(images).equal(network(images))
