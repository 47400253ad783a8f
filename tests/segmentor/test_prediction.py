"""Probabilities of an image: one look, and the mean of several."""

import cv2
import numpy as np
import torch
from torch import nn

from segmentor.augment import normalised
from segmentor.networks import enlarged
from segmentor.prediction import probabilities
from segmentor.settings import InferenceSettings
from tests.segmentor.small import scene, small_network
from tests.support import bilinear


def softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def test_one_look_is_the_softmax_of_enlarged_scores() -> None:
    network, (image, _) = small_network().eval(), scene(0, (68, 76))
    with torch.no_grad():
        scores = network(torch.from_numpy(normalised(image, "imagenet"))[None])[0].permute(1, 2, 0).numpy()
    expected = softmax(bilinear(scores, (68, 76)))
    found = probabilities(network, image, InferenceSettings("imagenet"))
    assert found.shape == (3, 68, 76) and found.dtype == np.float32
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1e-5)


class Brightness(nn.Module):
    """Scores (1, 2, H, W): the red channel, and zero; on the image's own grid."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images[:, :1], torch.zeros_like(images[:, :1])], dim=1)


def test_mirrored_looks_are_mirrored_back() -> None:
    """A network that works pixel by pixel gives the same, mirrored or not."""
    image = np.random.default_rng(0).integers(0, 256, (64, 70, 3), dtype=np.uint8)
    plain = probabilities(Brightness(), image, InferenceSettings("clip"))
    np.testing.assert_allclose(
        probabilities(Brightness(), image, InferenceSettings("clip", flip=True)), plain, atol=1e-6
    )


def test_several_sizes_are_averaged() -> None:
    network, (image, _) = small_network().eval(), scene(1, (80, 64))
    own = [probabilities(network, image, InferenceSettings("imagenet", scales=(scale,))) for scale in (1.0, 0.5, 1.5)]
    together = probabilities(network, image, InferenceSettings("imagenet", scales=(1.0, 0.5, 1.5)))
    np.testing.assert_allclose(together, np.mean(own, axis=0), atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=0), 1, atol=1e-5)
    assert abs(own[0] - own[1]).max() > 1e-3


def test_an_image_is_fitted_into_a_box_first() -> None:
    """As if it had been enlarged by hand, and the probabilities put back to its own size."""
    network, (image, _) = small_network().eval(), scene(1, (64, 80))
    larger = cv2.resize(image, (120, 96), interpolation=cv2.INTER_LINEAR)
    with torch.no_grad():
        scores = network(torch.from_numpy(normalised(larger, "imagenet"))[None])
    grown = nn.functional.interpolate(enlarged(scores, torch.zeros(1, 3, 96, 120)), size=(64, 80), mode="bilinear")
    found = probabilities(
        network, image, InferenceSettings("imagenet", resize=(400, 96))
    )  # the short side is what fits
    np.testing.assert_allclose(found, grown[0].softmax(0).numpy(), atol=1e-5)
    halved = probabilities(network, image, InferenceSettings("imagenet", resize=(800, 192), scales=(0.5,)))
    np.testing.assert_allclose(halved, found, atol=1e-6)
