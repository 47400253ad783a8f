"""The methods that see windows: published constants, words, thresholds, and maps by their steps."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import plain_dense as plain
from clip.load import Clip
from clip.text import encode_prompts
from common.errors import UserError
from dataset.spec import DatasetSpec
from pipeline.files.cam_file import load_cams
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS, compute_maps
from pipeline.methods.windowed import COSINES, together
from pipeline.stages.cams import text_set
from pipeline.steps import dense_attention
from tests.support import Desk, clip_from, tiny_model
from tests.tiny_resnet import tiny_resnet_clip
from voc12.spec import SPEC as VOC
from voc12.voc20 import SPEC as VOC20

MIDDLE = {"resclip": "3 to 4 in place of 6 to 9", "sc-clip": "2 to 4 in place of 4 to 10"}  # of five blocks
MIDDLE["sfp"] = MIDDLE["sc-clip"]
NAMES = ("sclip", "clearclip", "naclip", *MIDDLE, "gem")
CLASSES = ("cat", "dog", "bird")
SPEC = DatasetSpec("three", CLASSES, (("cat", "kitten"), ("dog",), ("bird",)), ("sky", "road"), True, 0.4)
SMALL = {"short_side": 48, "window": 32, "stride": 16, "pamr": 1, "templates": "dataset", "background": "dataset"}


@pytest.fixture(scope="module")
def deep() -> Clip:
    return clip_from(tiny_model(layers=12).state_dict())


def settings_of(name: str, clip: Clip, spec: DatasetSpec = SPEC, **options: Any) -> CamSettings:
    method = METHODS[name]
    return CamSettings(method=name, options=method.complete(clip, spec, method.settings(**{**SMALL, **options})))


@pytest.mark.parametrize("name", NAMES)
def test_maps_stand_for_their_images_and_classes_alone(name: str, deep: Clip) -> None:
    """In a batch as alone; in another order of classes the same; nothing for an image without labels."""
    settings = settings_of(name, deep)
    text = text_set(deep, SPEC, settings)
    assert text.counts == (2, 1, 1)
    images = torch.randn(3, 3, 50, 45, generator=torch.Generator().manual_seed(0))
    together = compute_maps(deep, images, [(0, 2), (), (1,)], text, settings)
    assert [maps.shape for maps, _ in together] == [(2, 13, 12), (0, 13, 12), (1, 13, 12)]
    ((turned, _),) = compute_maps(deep, images[:1], [(2, 0)], text, settings)
    ((alone, _),) = compute_maps(deep, images[2:], [(1,)], text, settings)
    assert torch.allclose(turned[[1, 0]], together[0][0], atol=1e-3)
    assert torch.allclose(alone, together[2][0], atol=1e-3) and float(alone.std()) > 0


@pytest.fixture(scope="module")
def shallow() -> Clip:
    return clip_from(tiny_model(layers=5).state_dict())


@pytest.mark.parametrize(
    ("name", "tower"), [*((name, "deep") for name in NAMES), *((name, "shallow") for name in (*MIDDLE, "gem"))]
)
def test_by_a_transcription_window_by_window(name: str, tower: str, request: pytest.FixtureRequest) -> None:
    """Two images whose windows go together, as benchmarks/plain_dense.py has them one after the other."""
    clip: Clip = request.getfixturevalue(tower)
    options = {"pamr": 0, "logit_scale": 9.0, "window": 52, "stride": 23}
    settings = settings_of(name, clip, **options)
    text = text_set(clip, SPEC, settings)
    images = torch.randn(2, 3, 70, 77, generator=torch.Generator().manual_seed(3))
    found = compute_maps(clip, images, [(0, 2), (1,)], text, settings)
    more = {key: getattr(settings.options, key, None) for key in ("rcs", "sfr", "first_threshold")}
    constants = plain.Constants(window=52, stride=23, scale=9.0, more=more)
    for image, present, (maps, _) in zip(images, [(0, 2), (1,)], found):
        words, owners = text.words_of(present)
        state = clip.model.state_dict()
        cosines = plain.image_cosines(state, plain.METHODS[name], image, words, owners, constants)[None]
        shares = (9 * F.interpolate(cosines, size=maps.shape[1:], mode="bilinear")[0]).softmax(dim=0)
        values = torch.stack([shares[torch.tensor(owners) == owner].amax(dim=0) for owner in range(len(present) + 1)])
        assert torch.allclose(maps, (values[1:] / values[0]).log(), atol=2e-3), name
        assert maps.std() > 1e-3


def test_half_precision_changes_the_maps_a_little(deep: Clip) -> None:
    """All blocks but the last; what is returned is float32."""
    exact = settings_of("clearclip", deep, logit_scale=9.0)
    text, images = text_set(deep, SPEC, exact), torch.randn(1, 3, 40, 45, generator=torch.Generator().manual_seed(3))
    ((ours, _),) = compute_maps(deep, images, [(0, 2)], text, exact)
    ((half, _),) = compute_maps(deep, images, [(0, 2)], text, replace(exact, precision="bfloat16"))
    assert half.dtype == torch.float32 and 0 < float((ours - half).abs().max()) < 0.3


def test_windows_that_go_together_fit_into_memory(deep: Clip) -> None:
    """16 of 14 x 14 patches on the CPU; a whole image alone; fewer, where 1000 words are looked for."""
    images = torch.empty(1, 3, 1120, 1120)
    assert together(deep, images, 112, 50) == 16 and together(deep, images, 0, 50) == 1
    assert together(deep, images, 112, 2000) == COSINES // (2000 * 112**2) == 5


@pytest.mark.parametrize("synonyms", ["max", "mean"])
def test_one_window_by_hand(synonyms: str, deep: Clip) -> None:
    """ClearCLIP on one whole image: cosines of every word, the best of a class against the best of the background."""
    options = {"window": 0, "pamr": 0, "logit_scale": 7.0, "prob_threshold": 0.2, "synonyms": synonyms}
    settings = settings_of("clearclip", deep, **options)
    text = text_set(deep, SPEC, settings)
    image = torch.randn(1, 3, 40, 36, generator=torch.Generator().manual_seed(1))
    padded = F.pad(image, (2, 2, 0, 0))
    tokens = dense_attention.run_blocks(deep.visual, padded, "bicubic")
    features = dense_attention.to_features(deep.visual, dense_attention.output_by(deep.visual, tokens, "qq"))[0]
    rows: list[tuple[Any, int]] = [("sky", 0), ("road", 0), ("cat", 1), ("kitten", 1), ("bird", 2)]
    if synonyms == "mean":
        rows = [("sky", 0), ("road", 0), (("cat", "kitten"), 1), ("bird", 2)]
    names = [[name] if isinstance(name, str) else name for name, _ in rows]
    words = encode_prompts(deep, [[SPEC.template.replace("{}", one) for one in group] for group in names])
    cosines = (F.normalize(features, dim=1) @ words.T).T.view(-1, 5, 5)
    full = F.interpolate(cosines[None], size=(40, 40), mode="bilinear")[..., 2:38]
    small = F.interpolate(full, size=(10, 9), mode="bilinear")[0]
    shares = (7 * small).softmax(dim=0)
    values = torch.stack(
        [shares[[i for i, row in enumerate(rows) if row[1] == owner]].amax(dim=0) for owner in range(3)]
    )
    wanted = (values[1:] / values[0]).log()
    ((found, _),) = compute_maps(deep, image, [(0, 2)], text, settings)
    weak = values.amax(dim=0) < 0.2
    assert torch.allclose(found[:, ~weak], wanted[:, ~weak], atol=1e-3)
    assert (found[:, weak] == -30000).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_step_leaves_the_device(name: str, deep: Clip) -> None:
    """On torch's meta device, which has shapes and no numbers: whatever is made on another device, or read from it
    while the maps are computed, raises."""
    settings = settings_of(name, deep)
    text = text_set(deep, SPEC, settings)
    far = replace(text, foreground=text.foreground.to("meta"), background=text.background.to("meta"))
    clip = replace(deep, model=copy.deepcopy(deep.model).to("meta"))
    images = torch.zeros(2, 3, 50, 45, device="meta")
    if name in ("naclip", "resclip"):
        settings = replace(settings, options=replace(settings.options, pamr=3))
    maps = compute_maps(clip, images, [(0, 2), (1,)], far, settings)
    assert [(found.device.type, tuple(found.shape)) for found, _ in maps] == [
        ("meta", (2, 13, 12)),
        ("meta", (1, 13, 12)),
    ]


def test_published_constants_and_one_s_own(deep: Clip) -> None:
    sclip = METHODS["sclip"]
    assert replace_none(sclip.complete(deep, VOC, sclip.settings())) == (336, 224, 112, 65, 0.1, 0.1, 0, "words")
    assert replace_none(sclip.complete(deep, VOC20, sclip.settings())) == (336, 224, 112, 40, 0, 0, 0, "words")
    assert replace_none(sclip.complete(deep, SPEC, sclip.settings(logit_scale=9.0)))[3:] == (9, 0, 0, 0, "dataset")
    resclip = METHODS["resclip"]
    found = resclip.complete(deep, VOC, resclip.settings(rcs=(1.0, 0.0)))
    assert (found.first_threshold, found.rcs, found.sfr) == (0.5, (1.0, 0.0), (2.2, 0.7))
    assert METHODS["naclip"].preparation(deep, found).frame == (2048, 336)
    voc_words = sclip.words(VOC, sclip.complete(deep, VOC, sclip.settings()))
    assert len(voc_words.names) == 20 + 26 and voc_words.names[3] == ("ship",) and len(voc_words.names[14]) == 7


def replace_none(options: Any) -> tuple[Any, ...]:
    names = "short_side window stride logit_scale prob_threshold area_threshold pamr background".split()
    return tuple(getattr(options, name) for name in names)


@pytest.mark.parametrize("name", MIDDLE)
def test_the_record_says_which_blocks_are_read(name: str, deep: Clip, shallow: Clip, tiny_clip: Clip) -> None:
    """Where they are not the published ones; a tower of three blocks still has a middle."""
    assert settings_of(name, deep).record()["blocks"] is None
    assert settings_of(name, shallow).record()["blocks"] == MIDDLE[name]
    of_three = {"resclip": "2 in place of 6 to 9"}.get(name, "1 to 2 in place of 4 to 10")
    assert settings_of(name, tiny_clip).record()["blocks"] == of_three
    image = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    settings = settings_of(name, tiny_clip)
    ((maps, _),) = compute_maps(tiny_clip, image, [(0, 2)], text_set(tiny_clip, SPEC, settings), settings)
    assert maps.isfinite().all() and float(maps.std()) > 0


def test_towers_that_do_not_fit_are_refused() -> None:
    for name in MIDDLE:
        with pytest.raises(UserError, match=f"--method {name}: reads middle blocks, and this image tower has 2; use a"):
            settings_of(name, clip_from(tiny_model(layers=2).state_dict()))
    with pytest.raises(UserError, match="the model is a ResNet"):
        settings_of("naclip", tiny_resnet_clip())


def test_by_the_commands(desk: Desk, quick_crf: None) -> None:
    """Without labels; a file has a value for every four pixels of the scaled image, and masks are made of it."""
    own = ("--short_side", 48, "--window", 32, "--stride", 16, "--templates", "dataset")
    ended = desk.run("generate_cams", "--method", "naclip", "--labels", "all", *own)
    assert ended.code == 0, ended.err
    keys, maps = load_cams(desk.cams / "a.npz", "highres", 20)
    assert keys.tolist() == list(range(20)) and maps.shape == (20, 24, 33)
    with np.load(desk.cams / "a.npz") as stored:
        assert stored["cam"].shape == (20, 12, 17)  # 48 x 66 pixels
    assert desk.run("eval_cam").code == 0 and desk.run("eval_cam_with_crf").code == 0
    ended = desk.run("generate_cams", "--method", "naclip", "--labels", "all", *own, "--stride", 8)
    assert ended.code == 2 and "stride 16 (now 8)" in ended.err


def test_a_text_set_without_background_counts_classes_from_zero() -> None:
    rows = torch.eye(4)
    text = TextSet(rows, rows[:0], (2, 1, 1))
    words, owners = text.words_of((2, 0))
    assert owners == [0, 1, 1] and np.array_equal(words, rows[[3, 0, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 3}, r"--window 3: expected at least a patch of this CLIP, 8"),
        ({"stride": 500}, r"--stride 500: would leave gaps between windows of 32; expected 1 to 32"),
        ({"window": 8, "stride": None}, r"--stride 112: would leave gaps between windows of 8"),
    ],
)
def test_windows_that_see_nothing_or_leave_gaps_are_refused(
    options: dict[str, Any], message: str, tiny_clip: Clip
) -> None:
    with pytest.raises(UserError, match=message):
        settings_of("sclip", tiny_clip, **options)
    assert settings_of("sclip", tiny_clip, window=0, stride=500).options.stride == 500  # one window: the image
