"""ExCEL's maps by its steps, in a batch as alone, and without gradients."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from clip.load import Clip
from clip.vision import class_token_features, vision_forward
from dataset.spec import DatasetSpec
from pipeline.methods.excel import ExcelSettings
from pipeline.methods.method import CamSettings
from pipeline.methods.table import METHODS, compute_maps
from pipeline.stages.cams import text_set
from pipeline.steps import affinity, dense_attention, two_paths
from tests.support import Desk, clip_from, tiny_model

CLASSES = ("cat", "dog", "bird")
SPEC = DatasetSpec("three", CLASSES, tuple((name,) for name in CLASSES), ("sky", "road"), True, 0.4)
SETTINGS = CamSettings(method="excel", options=ExcelSettings(box_threshold=0.5))


@pytest.fixture(scope="module")
def deep() -> Clip:
    return clip_from(tiny_model(layers=8).state_dict())


def test_maps_are_the_steps_put_together(deep: Clip) -> None:
    text = text_set(deep, SPEC, SETTINGS)
    images = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():  # no gradient could be taken here
        found = compute_maps(deep, images, [(2, 0), (), (1,)], text, SETTINGS)
    assert [cam.shape for cam, _ in found] == [(2, 5, 5), (0, 5, 5), (1, 5, 5)]
    features = vision_forward(deep.visual, images[:1])
    tokens = dense_attention.run_blocks(deep.visual, images[:1], "bilinear")
    patches = dense_attention.to_features(deep.visual, two_paths.surgery_output(deep.visual, tokens))
    of_image = class_token_features(deep.visual, features.last_output)
    words = torch.cat([text.foreground, text.background])
    maps = two_paths.surgery_maps(F.normalize(patches, dim=-1), F.normalize(of_image, dim=-1), words, (5, 5))[0]
    transition = affinity.transition_matrix(torch.stack(features.attention[-6:]).mean(dim=0))
    (refined,) = affinity.refine(transition, [maps[[2, 0]]], 0.5)
    assert torch.allclose(found[0][0], maps[[2, 0]], atol=1e-4) and torch.allclose(found[0][1], refined, atol=1e-3)
    assert found[0][1].max() > 0.9


def test_no_step_before_the_boxes_leaves_the_device(deep: Clip) -> None:
    """On torch's meta device, which has no numbers."""
    text, late = text_set(deep, SPEC, SETTINGS), METHODS["excel"].late
    far = replace(text, foreground=text.foreground.to("meta"), background=text.background.to("meta"))
    clip = replace(deep, model=copy.deepcopy(deep.model).to("meta"))
    assert late is not None
    ((transition, maps),) = late.look(clip, torch.zeros(1, 3, 40, 32, device="meta"), [(1, 2)], far, SETTINGS)
    assert transition.shape == (20, 20) and maps.shape == (2, 5, 4) and maps.device.type == "meta"


def test_by_the_commands(desk: Desk, quick_crf: None) -> None:
    """It needs labels; images become squares, whose maps are stretched back."""
    ended = desk.run("generate_cams", "--method", "excel", "--side", 40)
    assert ended.code == 0, ended.err
    assert desk.run("eval_cam").code == 0 and desk.run("eval_cam_with_crf").code == 0
    assert METHODS["excel"].needs_labels and METHODS["excel"].preparation(None, None).frame == (320,)  # type: ignore[arg-type]
