"""The teacher against what generate_cams.py makes of the same image, and its parts against loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clip.image import NORMALISATIONS as CLIPS
from clip.load import Clip
from pipeline.methods.maskclip import MaskClipSettings
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS, compute_maps
from pipeline.steps.masks import confident, contest, labels_of
from segmentor.augment import NORMALISATIONS, normalised
from segmentor.maskclip_plus import Teacher, by_size, renormalised
from tests.support import bilinear
from tests.tiny_resnet import tiny_resnet_clip

SIZE = 48  # six patches of the tiny CLIP
METHOD_SETTINGS = [
    CamSettings(method="maskclip"),
    CamSettings(method="maskclip", options=MaskClipSettings(denoising=0.3)),
    CamSettings(method="maskclip", options=MaskClipSettings(key_smoothing=1.0, smoothing_norm="channel")),
    CamSettings(method="maskclip-v"),
]
NAMES = ["official", "denoised", "smoothed", "package"]


@pytest.fixture(scope="module")
def text() -> TextSet:
    torch.manual_seed(8)
    vectors = torch.nn.functional.normalize(torch.randn(6, 32), dim=1)
    return TextSet(vectors[:4], vectors[4:])


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(9)
    return torch.randn(2, 3, SIZE, SIZE)


def probabilities(
    clip: Clip, images: torch.Tensor, text: TextSet, settings: CamSettings, background: bool, refined: bool = False
) -> list[np.ndarray]:
    """By the road of the masks: a method's maps of all classes, enlarged by hand, as probabilities."""
    every = [tuple(range(len(text.foreground)))] * len(images)
    kind = METHODS[settings.method].kind(settings.options)
    pairs = compute_maps(clip, images, every, text, settings)
    grown = [bilinear(pair[refined].permute(1, 2, 0).numpy(), (SIZE, SIZE)).transpose(2, 0, 1) for pair in pairs]
    return [contest(maps.astype(np.float32), kind, background) for maps in grown]


@pytest.mark.parametrize("settings", METHOD_SETTINGS, ids=NAMES)
@pytest.mark.parametrize(("background", "refined"), [(False, False), (True, False), (True, True)])
def test_labels_are_those_of_the_maps(
    settings: CamSettings, background: bool, refined: bool, tiny_clip: Clip, images: torch.Tensor, text: TextSet
) -> None:
    """With the normalisation that the method wants, so that both see the same tensor."""
    known = text if background else TextSet(text.foreground, text.background[:0])
    wanted = METHODS[settings.method].preparation(tiny_clip, settings.options).normalisation
    keys = np.arange(4)
    values = keys + 1 if background else keys
    shares = probabilities(tiny_clip, images, known, settings, background, refined)
    bar = float(np.quantile([each.max(axis=0) for each in shares], 0.3))
    teacher = Teacher(tiny_clip, known, values.tolist(), settings, background, wanted, refined=refined)
    found, unsure = teacher(images), replace(teacher, confidence=bar)(images)
    told = set()
    for index, own in enumerate(shares):
        labels = labels_of(own, keys, background)
        assert (found[index].numpy() == labels).mean() > 0.999  # sums of another order can turn a tie
        assert (unsure[index].numpy() == confident(labels, own, bar)).mean() > 0.998
        told |= set(np.unique(labels).tolist())
    assert (refined or len(told) > 2) and found.dtype == torch.int64  # spread over an image of noise, one label wins
    assert (unsure == 255).float().mean() == pytest.approx(0.3, abs=0.2 if refined else 0.01)


def test_it_chooses_among_its_own_labels_only(tiny_clip: Clip, images: torch.Tensor, text: TextSet) -> None:
    """Two of four classes, by the values that they have in masks; the others are as if they did not exist."""
    few = TextSet(text.foreground[[1, 3]], text.background[:0])
    found = Teacher(tiny_clip, few, [7, 9], CamSettings(method="maskclip"), False, "imagenet")(images)
    every = TextSet(text.foreground, text.background[:0])
    for index, shares in enumerate(probabilities(tiny_clip, images, every, CamSettings(method="maskclip"), False)):
        wanted = np.where(shares[1] >= shares[3], 7, 9)
        assert set(np.unique(wanted)) == {7, 9} and (found[index].numpy() == wanted).mean() > 0.999


@pytest.mark.parametrize("method", ["maskclip", "maskclip-v"])
def test_images_are_normalised_anew_for_the_teacher(
    method: str, tiny_clip: Clip, images: torch.Tensor, text: TextSet
) -> None:
    wanted = METHODS[method].preparation(tiny_clip, None).normalisation
    other = "imagenet" if wanted == "clip" else "clip"
    assert {"maskclip": "imagenet", "maskclip-v": "clip"}[method] == wanted
    known = TextSet(text.foreground, text.background[:0])
    teachers = [Teacher(tiny_clip, known, [0, 1, 2, 3], CamSettings(method=method), False, n) for n in (wanted, other)]
    in_other = renormalised(images, wanted, other)
    assert not torch.allclose(in_other, images, atol=0.1)
    assert (teachers[0](images) == teachers[1](in_other)).float().mean() > 0.999


def test_normalisations_agree_with_clips() -> None:
    """A value in 0..255 by one normalisation, then by the other; clip/image.py has them for 0..1."""
    colours = torch.rand(1, 3, 4, 4)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in CLIPS["imagenet"])
    clip_mean, clip_deviation = (torch.tensor(values)[:, None, None] for values in CLIPS["clip"])
    found = renormalised((colours - mean) / deviation, "imagenet", "clip")
    torch.testing.assert_close(found, (colours - clip_mean) / clip_deviation, atol=1e-5, rtol=1e-5)
    assert set(NORMALISATIONS) <= set(CLIPS) and renormalised(colours, "clip", "clip") is colours


@pytest.mark.parametrize("normalisation", sorted(NORMALISATIONS))
def test_no_pixel_is_taken_for_padding(normalisation: str) -> None:
    """Every grey of 0..255 in a picture of a row and a column; a row of the padding is a row of zeros."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert (normalised(greys, normalisation) != 0).all()
    images = torch.zeros(4, 3, 300, 200)
    images[0, :, :256, :1] = torch.from_numpy(normalised(greys, normalisation))
    images[1:3, :, :120] = torch.randn(2, 3, 120, 200)
    assert by_size(images) == {(256, 1): [0], (120, 200): [1, 2]}  # the last one is empty


def test_padding_changes_nothing_unless_it_is_to_be_seen(tiny_clip: Clip, text: TextSet) -> None:
    """Each image of a batch gets the labels that it gets alone and unpadded; 255 beside it."""
    torch.manual_seed(6)
    known, sizes = TextSet(text.foreground, text.background[:0]), [(48, 48), (24, 40), (48, 48), (17, 48)]
    images, wanted = torch.zeros(4, 3, 48, 48), torch.full((4, 48, 48), 255)
    teacher = Teacher(tiny_clip, known, [0, 1, 2, 3], CamSettings(method="maskclip"), False, "imagenet")
    for index, (height, width) in enumerate(sizes):
        images[index, :, :height, :width] = torch.randn(3, height, width)
        wanted[index, :height, :width] = teacher(images[index : index + 1, :, :height, :width])[0]
    found = teacher(images)
    assert ((found == 255) == (wanted == 255)).all() and (found == wanted).float().mean() > 0.999
    padded = replace(teacher, padding=True)(images)
    every = [(0, 1, 2, 3)] * 4
    maps = [cam for cam, _ in compute_maps(tiny_clip, images, every, known, CamSettings(method="maskclip"))]
    for index in range(4):
        grown = bilinear(maps[index].permute(1, 2, 0).numpy(), (48, 48))
        assert (padded[index].numpy() == grown.argmax(-1)).mean() > 0.999
    assert (padded != wanted)[wanted != 255].float().mean() > 0.01


def test_crops_that_do_not_fit_the_patches(tiny_clip: Clip, text: TextSet) -> None:
    """A ViT's images get zeros at the far corner, of which nothing is kept; a ResNet's are stretched."""
    torch.manual_seed(3)
    images = torch.randn(1, 3, 45, 45)
    known = TextSet(text.foreground, text.background[:0])
    settings = CamSettings(method="maskclip")
    found = Teacher(tiny_clip, known, [0, 1, 2, 3], settings, False, "imagenet")(images)
    whole = torch.zeros(1, 3, SIZE, SIZE)
    whole[..., :45, :45] = images
    ((maps, _),) = compute_maps(tiny_clip, whole, [(0, 1, 2, 3)], known, settings)
    grown = bilinear(maps.permute(1, 2, 0).numpy(), (SIZE, SIZE))[:45, :45]
    assert found.shape == (1, 45, 45) and (found[0].numpy() == grown.argmax(-1)).mean() > 0.999
    resnet = tiny_resnet_clip()
    vectors = torch.nn.functional.normalize(torch.randn(3, resnet.texts.embedding), dim=1)
    told = Teacher(resnet, TextSet(vectors, vectors[:0]), [4, 5, 6], settings, False, "imagenet")(images)
    assert told.shape == (1, 45, 45) and set(told.unique().tolist()) <= {4, 5, 6}


def test_pamr_moves_labels_to_the_edges_of_the_picture(tiny_clip: Clip, text: TextSet) -> None:
    """Probabilities and image at every second pixel, steps of a mean over neighbours by loops, enlarged again."""
    image = torch.zeros(1, 3, SIZE, SIZE)
    image[..., 20:] = 2.0
    image += 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    known = TextSet(text.foreground, text.background[:0])
    settings = CamSettings(method="maskclip")
    ((maps, _),) = compute_maps(tiny_clip, image, [(0, 1, 2, 3)], known, settings)
    half = SIZE // 2
    shares = torch.from_numpy(bilinear(maps.permute(1, 2, 0).numpy(), (half, half))).softmax(dim=-1).numpy()
    small = image[0].reshape(3, half, 2, half, 2).mean(dim=(2, 4)).permute(1, 2, 0).numpy()
    offsets = [(y * d, x * d) for d in (4, 8) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]

    def at(values: np.ndarray, row: int, column: int) -> np.ndarray:
        return values[np.clip(row, 0, half - 1), np.clip(column, 0, half - 1)]

    wanted = shares
    for _ in range(2):
        after = np.empty_like(wanted)
        for row, column in np.ndindex(half, half):
            around = np.stack([at(small, row + y, column + x) for y, x in offsets])
            deviation = np.concatenate([around, np.repeat(small[row, column][None], 2, axis=0)]).std(axis=0, ddof=1)
            weights = np.exp(-(np.abs(around - small[row, column]) / (1e-8 + 0.1 * deviation)).mean(axis=1))
            values = np.stack([at(wanted, row + y, column + x) for y, x in offsets])
            after[row, column] = (values * weights[:, None]).sum(axis=0) / weights.sum()
        wanted = after
    labels = bilinear(wanted, (SIZE, SIZE)).argmax(-1)
    teacher = Teacher(tiny_clip, known, [0, 1, 2, 3], settings, False, "imagenet", pamr=2)
    found = teacher(image)[0].numpy()
    assert (found == labels).mean() > 0.999
    assert (replace(teacher, pamr=0)(image)[0].numpy() != labels).mean() > 0.01
