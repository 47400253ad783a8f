"""Networks: their sizes as published, and that they compute what transformers' and torchvision's own do."""

import pytest
import torch

from segmentor.networks import (
    ARCHES,
    build,
    enlarged,
    segformer_config,
)

PUBLISHED = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}  # million, ADE20K's 150 classes


@pytest.mark.slow
def test_segformers_have_their_published_sizes() -> None:
    for size, millions in {**PUBLISHED, "tiny": 0.46}.items():
        with torch.device("meta"):
            network = build(f"segformer-{size}", 150)
        count = sum(weight.numel() for weight in network.parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.1), size


def test_a_segformer_computes_what_transformers_does() -> None:
    from transformers import SegformerForSemanticSegmentation

    torch.manual_seed(0)
    network = build("segformer-tiny", 5).eval()
    config = segformer_config("segformer-tiny")
    config.num_labels = 5
    whole = SegformerForSemanticSegmentation(config).eval()
    whole.segformer.load_state_dict(network.body.encoder.state_dict())
    whole.decode_head.load_state_dict(
        {
            **network.body.decode_head.state_dict(),
            **{f"classifier.{k}": v for k, v in network.head.state_dict().items()},
        }
    )
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(images), whole(images).logits, atol=1e-5, rtol=1e-5)


def test_a_deeplab_computes_what_torchvision_does() -> None:
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    torch.manual_seed(0)
    network = build("deeplabv3-mobilenet", 4).eval()
    whole = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    whole.backbone.load_state_dict(network.body.encoder.state_dict())
    state = network.body.decode_head.state_dict() | {f"4.{k}": v for k, v in network.head.state_dict().items()}
    whole.classifier.load_state_dict(state)
    images = torch.randn(1, 3, 80, 96)
    with torch.no_grad():
        torch.testing.assert_close(enlarged(network(images), images), whole(images)["out"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["segformer-tiny", "deeplabv3-mobilenet"])
def test_images_of_any_size(arch: str) -> None:
    network = build(arch, 3).eval()
    for size in ((1, 1), (33, 200), (65, 67)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert enlarged(network(images), images).shape == (1, 3, *size)


@pytest.mark.slow
def test_every_network_tells_what_is_new_by_its_name() -> None:
    """The encoder's parameters have no `head` in their names, all others have."""
    for arch in ARCHES:
        with torch.device("meta"):
            names = [name for name, _ in build(arch, 2).named_parameters()]
        assert any("head" in name for name in names)
        assert all(("head" in name) == (not name.startswith("body.encoder.")) for name in names)
