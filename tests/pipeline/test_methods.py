"""A method on a batch is the steps put together, image by image."""

import shutil

import numpy as np
import pytest
import torch

from clip.load import Clip
from clip.vision import vision_forward
from dataset.spec import DatasetSpec
from pipeline import affinity, cam
from pipeline.methods import METHODS, CamSettings, TextSet, compute_maps
from pipeline.stage_cams import text_set

CLASSES = ("cat", "dog", "bird", "car")
SPEC = DatasetSpec("four", CLASSES, tuple((name,) for name in CLASSES), ("sky", "road"), True, 0.4)
LABELS = [(1,), (), (0, 2, 3), (2,)]


@pytest.fixture(scope="module")
def text(tiny_clip: Clip) -> TextSet:
    return text_set(tiny_clip, SPEC)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randn(4, 3, 40, 24)


def test_text_set_is_split_at_the_classes(text: TextSet) -> None:
    assert text.foreground.shape == (4, 32) and text.background.shape == (2, 32)


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("augmented", [{}, {"flip": True, "scales": (1.0, 1.5)}])
def test_a_batch_gives_what_single_images_give(
    name: str, augmented: dict, tiny_clip: Clip, images: torch.Tensor, text: TextSet
) -> None:
    settings = CamSettings(name, **augmented)
    together = compute_maps(tiny_clip, images, LABELS, text, settings)
    assert len(together) == 4
    for index, labels in enumerate(LABELS):
        (alone,) = compute_maps(tiny_clip, images[index : index + 1], [labels], text, settings)
        for batch_map, single_map in zip(together[index], alone):
            assert batch_map.shape == (len(labels), 5, 3)
            assert torch.allclose(batch_map, single_map, atol=1e-4)
    assert sum(float(cam.amax(dim=(1, 2)).sum()) for cam, _ in together) > 2  # not all zeros, which would agree too


def test_clip_es_is_its_steps(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    (found,) = METHODS["clip-es"](tiny_clip, images[2:3], [(0, 3)], text, CamSettings(box_threshold=0.6))
    features = vision_forward(tiny_clip.visual, images[2:3])
    texts = text.foreground, text.background, tiny_clip.logit_scale
    (cams,), _ = cam.softmax_gradcam(tiny_clip.visual, features.last_input, (5, 3), [(0, 3)], *texts)
    attention = torch.stack(features.attention).mean(dim=0)[0]
    (refined,) = affinity.refine(affinity.transition_matrix(attention)[None], [cams], 0.6)
    assert torch.allclose(found[0], cams, atol=1e-5) and torch.allclose(found[1], refined, atol=1e-4)


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.15), ("float16", 0.02)])
def test_half_precision_changes_the_maps_a_little(
    precision: str, error: float, tiny_clip: Clip, images: torch.Tensor, text: TextSet
) -> None:
    exact, half = (
        compute_maps(tiny_clip, images, LABELS, text, CamSettings(precision=p)) for p in ("float32", precision)
    )
    difference = max(float((one[0] - other[0]).abs().max()) for one, other in zip(exact, half) if len(one[0]))
    assert 0 < difference < error
    assert all(pair[0].dtype == pair[1].dtype == torch.float32 for pair in half)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_blocks_give_the_same_maps(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    plain, compiled = (compute_maps(tiny_clip, images, LABELS, text, CamSettings(compile=c)) for c in (False, True))
    for one, other in zip(plain, compiled):
        assert torch.allclose(one[0], other[0], atol=1e-4) and torch.allclose(one[1], other[1], atol=1e-4)


def test_present_classes_compete(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    """Another class in the image changes the map of the first: the softmax is over what is present."""
    ((alone, _),) = compute_maps(tiny_clip, images[:1], [(0,)], text, CamSettings())
    ((beside, _),) = compute_maps(tiny_clip, images[:1], [(0, 1)], text, CamSettings())
    assert not torch.allclose(alone[0], beside[0], atol=1e-3)


def test_box_threshold_matters_to_the_refined_map_only(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    (low,) = compute_maps(tiny_clip, images[:1], [(0,)], text, CamSettings(box_threshold=0.1))
    (high,) = compute_maps(tiny_clip, images[:1], [(0,)], text, CamSettings(box_threshold=0.9))
    assert torch.equal(low[0], high[0]) and not torch.allclose(low[1], high[1], atol=1e-3)


def test_flip_makes_the_maps_of_a_symmetric_image_symmetric(tiny_clip: Clip, text: TextSet) -> None:
    torch.manual_seed(5)
    half = torch.randn(1, 3, 32, 20)
    image = torch.cat([half, half.flip(-1)], dim=-1)
    plain, flipped = (
        compute_maps(tiny_clip, image, [(1, 2)], text, CamSettings(flip=flip))[0] for flip in (False, True)
    )
    for maps in flipped:
        assert np.allclose(maps, maps.flip(-1), atol=1e-5)
    assert not np.allclose(plain[0], plain[0].flip(-1), atol=1e-2)
