"""FreeCP on windows by hand, its limits, and by the commands."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clip.load import Clip
from clip.vision import vision_forward
from common.errors import UserError
from dataset.spec import DatasetSpec
from pipeline.files.cam_file import read_record
from pipeline.methods import freecp
from pipeline.methods.freecp import BASES, purified
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS, compute_maps
from pipeline.methods.windowed import Windows, look
from pipeline.stages.cams import text_set
from pipeline.steps import affinity
from pipeline.steps.tensors import min_max
from tests.support import Desk, clip_from, tiny_model

CLASSES = ("cat", "dog", "bird")
SPEC = DatasetSpec("three", CLASSES, (("cat", "kitten"), ("dog",), ("bird",)), ("sky", "road"), True, 0.4)
SMALL = {"short_side": 48, "window": 32, "stride": 16, "templates": "dataset", "background": "dataset"}
GRID = (5, 4)


@pytest.fixture(scope="module")
def deep() -> Clip:
    return clip_from(tiny_model(layers=12).state_dict())


def settings_of(clip: Clip, **options: Any) -> CamSettings:
    method = METHODS["freecp"]
    return CamSettings(
        method="freecp", options=method.complete(clip, SPEC, method.settings(logit_scale=20.0, **{**SMALL, **options}))
    )


def windows_of(clip: Clip, settings: CamSettings, present: tuple[int, ...]) -> tuple[Windows, TextSet]:
    text = text_set(clip, SPEC, settings)
    images = torch.randn(2, 3, GRID[0] * 8, GRID[1] * 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return look(clip, images, *text.words_of(present), settings, 12), text


def by_hand(clip: Clip, settings: CamSettings, windows: Windows, index: int, count: int) -> torch.Tensor:
    """The refined maps (C, h, w) of one window with ClearCLIP below."""
    options, image = settings.options, windows.images[index : index + 1]
    features = vision_forward(clip.visual, image, positions="bicubic")
    block = clip.visual.transformer.resblocks[-1]
    width = block.attn.embed_dim
    projected = F.linear(block.ln_1(features.last_input), block.attn.in_proj_weight, block.attn.in_proj_bias)[0]
    query, value = projected[:, :width], projected[:, -width:]
    patches = block.attn.out_proj(((query @ query.T) / 8).softmax(dim=-1) @ value)[1:]  # one head of 64
    unit = F.normalize(clip.visual.ln_post(patches) @ clip.visual.proj, dim=-1)
    shares = (20 * unit @ windows.text.T).softmax(dim=-1).T.view(-1, *GRID)
    owners = torch.tensor(windows.owners)
    values = torch.stack([shares[owners == owner].amax(dim=0) for owner in range(1, count + 1)])
    together = (values - values.min()) / (values.max() - values.min())
    attention = torch.stack([one[0] for one in features.attention[:11]]).mean(dim=0)
    transition = affinity.transition_matrix(attention)
    refined = torch.zeros_like(values)
    for label in range(count):
        mask = torch.from_numpy(affinity.box_mask(together[label].numpy(), 0.4)).flatten()
        refined[label] = min_max(((transition * mask) @ together[label].flatten()).view(GRID))
        kept = (values[label] * refined[label]).sum() / (values[label].sum() + refined[label].sum())
        if not kept > options.redundancy:
            refined[label] = 0
    return apart_by_hand(clip, settings, windows, index, refined)


def apart_by_hand(
    clip: Clip, settings: CamSettings, windows: Windows, index: int, refined: torch.Tensor
) -> torch.Tensor:
    """Two classes at most that overlap, as in these tests."""
    a, b = refined[0], refined[1]
    if not float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp(min=1e-8)) >= settings.options.ambiguity:
        return refined
    winners = set()
    for top, left, bottom, right in affinity.boxes(((a + b) / 2).numpy(), 0.4):
        crop = windows.images[index : index + 1, :, 8 * top : 8 * bottom, 8 * left : 8 * right]
        if not crop.numel():
            continue
        crop = F.interpolate(crop, size=(16, 16), mode="bilinear")
        features = vision_forward(clip.visual, crop, positions="bicubic")
        image = F.normalize(clip.visual.ln_post(features.last_output[0, 0]) @ clip.visual.proj, dim=0)
        cosines = [
            max(float(image @ word) for word, owner in zip(windows.text, windows.owners) if owner == label + 1)
            for label in (0, 1)
        ]
        winners.add(int(np.argmax(cosines)))
    return torch.stack([m * (not winners or label in winners) for label, m in enumerate(refined)])


@pytest.mark.parametrize(("redundancy", "ambiguity"), [(-1.0, 2.0), (0.1, 2.0), (-1.0, 0.3)])
def test_windows_by_hand(deep: Clip, redundancy: float, ambiguity: float) -> None:
    """Nothing goes with thresholds out of reach, which is plain refinement; then each step alone."""
    settings = settings_of(deep)
    settings = replace(settings, options=replace(settings.options, redundancy=redundancy, ambiguity=ambiguity))
    windows, _ = windows_of(deep, settings, (0, 2))
    found = purified(deep, settings.options, 2, windows)
    assert found.shape == (2, 4, *GRID)
    for index in range(2):
        assert torch.allclose(found[index, 2:], by_hand(deep, settings, windows, index, 2), atol=1e-3)
    gone = (found[:, 2:].amax(dim=(2, 3)) == 0).any()
    assert bool(gone) == (redundancy > 0 or ambiguity < 1)  # something goes in the last two


@pytest.mark.parametrize("base", [name for name in BASES if name != "proxyclip"])
def test_on_top_of_every_method(base: str, deep: Clip) -> None:
    """In a batch as alone, in [0, 1]; nothing for an image without labels."""
    settings = settings_of(deep, base=base)
    text = text_set(deep, SPEC, settings)
    images = torch.randn(3, 3, 50, 45, generator=torch.Generator().manual_seed(0))
    together = compute_maps(deep, images, [(0, 2), (), (0, 2)], text, settings)
    assert [maps.shape for _, maps in together] == [(2, 13, 12), (0, 13, 12), (2, 13, 12)]
    ((_, alone),) = compute_maps(deep, images[2:], [(0, 2)], text, settings)
    assert torch.allclose(alone, together[2][1], atol=1e-3)
    assert alone.min() >= 0 and alone.max() <= 1 and together[0][0].std() > 0


def test_no_step_but_the_boxes_leaves_the_device(deep: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, which has no numbers; boxes are found on the CPU."""
    seen: list[int] = []

    def spread(transitions: torch.Tensor, cams: list[torch.Tensor], threshold: float) -> list[torch.Tensor]:
        seen.append(len(cams[0]))
        return [(cam.flatten(1) @ matrix.T).view_as(cam) for matrix, cam in zip(transitions, cams)]

    monkeypatch.setattr(affinity, "refine", spread)
    monkeypatch.setattr(freecp, "told_apart", lambda clip, options, windows, refined: refined.amax(dim=(2, 3)) > 0)
    settings = settings_of(deep)
    text = text_set(deep, SPEC, settings)
    far = replace(text, foreground=text.foreground.to("meta"), background=text.background.to("meta"))
    clip = replace(deep, model=copy.deepcopy(deep.model).to("meta"))
    maps = compute_maps(clip, torch.zeros(2, 3, 50, 45, device="meta"), [(0, 2), (1,)], far, settings)
    assert [found.shape for _, found in maps] == [(2, 13, 12), (1, 13, 12)] and set(seen) == {1, 2}
    assert all(found.device.type == "meta" for pair in maps for found in pair)


def test_what_does_not_go_together(tiny_clip: Clip) -> None:
    with pytest.raises(UserError, match="sc-clip: reads middle blocks, and this image tower has 2"):
        settings_of(clip_from(tiny_model(layers=2).state_dict()), base="sc-clip")
    with pytest.raises(UserError, match="--dino x: only read with --base proxyclip"):
        settings_of(tiny_clip, dino="x")
    with pytest.raises(UserError, match="--dino is needed"):
        settings_of(tiny_clip, base="proxyclip")


def test_by_the_commands(desk: Desk, quick_crf: None) -> None:
    """Without labels; the background is what the maps leave; each setting is printed once, and recorded."""
    own = ("--short_side", 48, "--window", 32, "--stride", 16, "--templates", "dataset", "--base", "naclip")
    ended = desk.run("generate_cams", "--method", "freecp", "--labels", "all", *own)
    assert ended.code == 0 and ended.out.count("short_side 48") == 1 and "redundancy 0.15" in ended.out, ended.err
    assert read_record(desk.cams / "a.npz")["of_base"]["neighbourhood"] == 5.0
    assert desk.run("eval_cam").code == 0 and desk.run("eval_cam_with_crf").code == 0
