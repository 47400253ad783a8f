"""A method on a batch is the steps put together, image by image."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from clip.image import Preparation
from clip.load import Clip
from clip.templates import BASE18, IMAGENET80, MASKCLIP85
from clip.text import encode_tokens, tokenize
from clip.vision import vision_forward, vision_trunk
from dataset.spec import DatasetSpec
from pipeline.methods.clip_es import ClipEsSettings
from pipeline.methods.maskclip import MaskClipSettings
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS, compute_maps
from pipeline.stages.cams import text_set
from pipeline.steps import affinity, cam, dense_features
from tests.tiny_resnet import tiny_resnet_clip

CLASSES = ("cat", "dog", "bird", "car")
SPEC = DatasetSpec("four", CLASSES, tuple((name,) for name in CLASSES), ("sky", "road"), True, 0.4)
LABELS = [(1,), (), (0, 2, 3), (2,)]
OF_A_CLIP = ("clip-es", "maskclip", "maskclip-v")  # a value a patch; the others see windows


@pytest.fixture(scope="module")
def text(tiny_clip: Clip) -> TextSet:
    return text_set(tiny_clip, SPEC, CamSettings())


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randn(4, 3, 40, 24)


def test_text_set_is_split_at_the_classes(text: TextSet) -> None:
    assert text.foreground.shape == (4, 32) and text.background.shape == (2, 32)


@pytest.mark.parametrize("name", OF_A_CLIP)
@pytest.mark.parametrize("augmented", [{}, {"flip": True, "scales": (1.0, 1.5)}])
def test_a_batch_gives_what_single_images_give(
    name: str, augmented: dict, tiny_clip: Clip, images: torch.Tensor, text: TextSet
) -> None:
    settings = CamSettings(method=name, **augmented)
    together = compute_maps(tiny_clip, images, LABELS, text, settings)
    assert len(together) == 4
    for index, labels in enumerate(LABELS):
        (alone,) = compute_maps(tiny_clip, images[index : index + 1], [labels], text, settings)
        for batch_map, single_map in zip(together[index], alone):
            assert batch_map.shape == (len(labels), 5, 3)
            assert torch.allclose(batch_map, single_map, atol=1e-4)
    assert sum(float(cam.abs().amax(dim=(1, 2)).sum()) for cam, _ in together) > 2  # not all zeros, which would agree


def test_clip_es_is_its_steps(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    (found,) = METHODS["clip-es"].maps(tiny_clip, images[2:3], [(0, 3)], text, CamSettings(options=ClipEsSettings(0.6)))
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
    (low,) = compute_maps(tiny_clip, images[:1], [(0,)], text, CamSettings(options=ClipEsSettings(0.1)))
    (high,) = compute_maps(tiny_clip, images[:1], [(0,)], text, CamSettings(options=ClipEsSettings(0.9)))
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


# --- MaskCLIP -------------------------------------------------------------------------------------

DENSE = OF_A_CLIP[1:]
SMOOTHED = MaskClipSettings(key_smoothing=1.0, denoising=0.1)


@pytest.fixture(scope="module")
def resnet() -> Clip:
    return tiny_resnet_clip()


def shares(maps: torch.Tensor) -> torch.Tensor:
    """(k, h, w) logits with the background at 0 to probabilities (k+1, h, w), background first."""
    return torch.cat([torch.zeros_like(maps[:1]), maps]).softmax(dim=0)


def test_official_maps_are_its_steps(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    """With an image tower that was built with the exact GELU and that epsilon."""
    (found,) = METHODS["maskclip"].maps(tiny_clip, images[2:3], [(0, 3)], text, CamSettings(method="maskclip"))
    visual = copy.deepcopy(tiny_clip.visual)
    for module in visual.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
        if hasattr(module, "gelu"):
            module.gelu = torch.nn.GELU()
    trunk = vision_trunk(visual, images[2:3], positions="bicubic")
    features, _ = dense_features.identity_features(visual, trunk.last_input)
    words = torch.cat([text.foreground[[0, 3]], text.background])
    wanted = (tiny_clip.logit_scale * features[0] @ words.T).softmax(dim=-1)  # (N, 2 + 2)
    assert torch.allclose(shares(found[0])[1:].flatten(1), wanted[:, :2].T, atol=1e-5)
    assert torch.allclose(shares(found[0])[0].flatten(), wanted[:, 2:].sum(dim=-1), atol=1e-5)


def test_packages_maps_are_its_steps(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    (found,) = METHODS["maskclip-v"].maps(tiny_clip, images[2:3], [(0, 3)], text, CamSettings(method="maskclip-v"))
    trunk = vision_trunk(tiny_clip.visual, images[2:3], positions="bicubic")
    output, attention = dense_features.last_block(tiny_clip.visual, trunk.last_input)
    features = dense_features.value_features(tiny_clip.visual, trunk.last_input, output)
    words = torch.cat([text.foreground[[0, 3]], text.background])
    wanted = (tiny_clip.logit_scale * features[0] @ words.T).softmax(dim=-1)
    assert torch.allclose(shares(found[0])[1:].flatten(1), wanted[:, :2].T, atol=1e-4)
    transition = affinity.transition_matrix(torch.stack([*trunk.attention, attention]).mean(dim=0)[0])
    assert torch.allclose(found[1], dense_features.spread(transition, found[0]), atol=1e-3)


@pytest.mark.parametrize("name", DENSE)
def test_dense_scores_compete_among_the_given_classes_only(
    name: str, tiny_clip: Clip, images: torch.Tensor, text: TextSet
) -> None:
    """Against the background each class's logit is its own; shares change with what else is there."""
    settings = CamSettings(method=name)
    ((few, _),) = compute_maps(tiny_clip, images[:1], [(1,)], text, settings)
    ((every, _),) = compute_maps(tiny_clip, images[:1], [(0, 1, 2, 3)], text, settings)
    assert every.shape == (4, 5, 3) and torch.allclose(few[0], every[1], atol=1e-4)


@pytest.mark.parametrize("name", DENSE)
def test_without_background_the_best_class_is_at_zero(
    name: str, tiny_clip: Clip, images: torch.Tensor, text: TextSet
) -> None:
    alone = TextSet(text.foreground, text.background[:0])
    ((maps, _),) = compute_maps(tiny_clip, images[:1], [(0, 1, 2, 3)], alone, CamSettings(method=name))
    assert torch.allclose(maps.amax(dim=0), torch.zeros(5, 3)) and maps.amin() < -0.05


@pytest.mark.parametrize(
    "own", [None, SMOOTHED, MaskClipSettings(denoising=0.1)], ids=["plain", "smoothed", "denoised"]
)
@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_dense_scores_are_the_maps_before_the_affinity(
    tower: str, name: str, own: MaskClipSettings | None, tiny_clip: Clip, resnet: Clip, text: TextSet
) -> None:
    clip, settings = tiny_clip if tower == "vit" else resnet, CamSettings(method=name, options=own)
    torch.manual_seed(7)
    batch = torch.randn(2, 3, 64, 96)
    found = METHODS[name].scores(clip, batch, text, settings)
    pairs = compute_maps(clip, batch, [range(4)] * 2, text, settings)
    assert found.shape == (2, 4, *pairs[0][0].shape[1:]) and found.dtype == torch.float32
    for scores, (before, _) in zip(found, pairs):
        assert torch.allclose(scores, before, atol=2e-4)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("name", DENSE)
def test_a_resnet_has_no_affinity(name: str, smoothed: bool, resnet: Clip, text: TextSet) -> None:
    settings = CamSettings(method=name, options=SMOOTHED if smoothed else None)
    torch.manual_seed(6)
    pairs = compute_maps(resnet, torch.randn(2, 3, 64, 96), [(0, 2), ()], text, settings)
    assert [cam.shape for cam, _ in pairs] == [(2, 2, 3), (0, 2, 3)]
    assert all(torch.equal(cam, attn) for cam, attn in pairs) and float(pairs[0][0].std()) > 0


def test_key_smoothing_gives_probabilities(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    settings = CamSettings(method="maskclip", options=SMOOTHED)
    assert METHODS["maskclip"].kind(settings.options) == "probability"
    for pair, labels in zip(compute_maps(tiny_clip, images, LABELS, text, settings), LABELS):
        for maps in pair:
            assert maps.shape == (len(labels), 5, 3)
            assert not len(maps) or (maps.amin() >= 0 and maps.sum(dim=0).amax() < 1 + 1e-5)


def test_what_a_method_wants(tiny_clip: Clip, resnet: Clip) -> None:
    wants = {name: METHODS[name].preparation(tiny_clip, None) for name in OF_A_CLIP}
    assert wants == {
        "clip-es": Preparation("stretch", (), "clip"),
        "maskclip": Preparation("pad", (2048, 512), "imagenet"),
        "maskclip-v": Preparation("square", (32,), "clip"),
    }
    assert METHODS["maskclip"].preparation(resnet, MaskClipSettings(frame=(96, 64))) == Preparation(
        "stretch", (96, 64), "imagenet"
    )
    assert METHODS["maskclip-v"].preparation(resnet, None).frame == (64,)
    assert [METHODS[name].kind(None) for name in OF_A_CLIP] == ["cam", "logit", "logit"]


@pytest.mark.parametrize("templates", ["maskclip85", "dataset"])
def test_the_texts_that_maskclip_asks_for(templates: str, tiny_clip: Clip) -> None:
    """Plain names in every sentence of the set; the mean of the unit embeddings, normalised."""
    spec = DatasetSpec(
        "two", ("tv", "cow"), (("x",), ("y",)), ("sky",), True, 0.4, plain_prompts=(("tv set",), ("cow",))
    )
    settings = CamSettings(method="maskclip", options=MaskClipSettings(templates=templates))
    found = text_set(tiny_clip, spec, settings)
    sentences = {"maskclip85": MASKCLIP85, "dataset": (spec.template,)}[templates]
    for embedding, name in zip([*found.foreground, *found.background], ("tv set", "cow", "sky")):
        units = torch.nn.functional.normalize(
            encode_tokens(tiny_clip, tokenize(tiny_clip, [sentence.replace("{}", name) for sentence in sentences])),
            dim=1,
        )
        mean = units.mean(dim=0)
        assert torch.allclose(embedding, mean / mean.norm(), atol=1e-5)


def test_background_words_where_there_are_none(tiny_clip: Clip) -> None:
    settings = CamSettings(method="maskclip", options=MaskClipSettings(templates="dataset"))
    bare = replace(SPEC, background_prompts=())
    assert len(text_set(tiny_clip, bare, settings).background) == 1  # "background" itself
    assert len(text_set(tiny_clip, replace(SPEC, has_background=False), settings).background) == 0


def test_templates_are_the_published_sets() -> None:
    assert [len(set(sentences)) for sentences in (IMAGENET80, MASKCLIP85, BASE18)] == [80, 85, 18]
    assert MASKCLIP85[0] == "a bad photo of a {}." and MASKCLIP85[79] == "a tattoo of the {}."
    assert (
        BASE18[0] == "a photo of a {}."
        and BASE18[8] == "a photo of a big {}."
        and BASE18[16] == "a photo of the small {}."
    )
