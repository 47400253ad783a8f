"""The MaskCLIP methods on the whole road, as commands: images -> dense maps -> masks -> scores."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import voc12.spec
from pipeline.storage import read_made_by, read_maps
from tests.support import Desk, openai_state
from tests.tiny_resnet import tiny_resnet_model

BRIEF = ("--templates", "dataset")  # one sentence a class; the 85 published ones have a test of their own
FEW = ("--frame", 96, 48, *BRIEF)  # the published 2048 x 512 would take long on a CPU


@pytest.fixture
def resnet_weights(tmp_path: Path) -> Path:
    path = tmp_path / "resnet.pt"
    torch.save(openai_state(tiny_resnet_model()), path)
    return path


def made(desk: Desk, image_id: str):
    return read_maps(desk.cams / f"{image_id}.npz", "attn_highres", 20)


@pytest.mark.parametrize(
    ("options", "kind", "grid"),
    [
        (("--method", "maskclip", *FEW), "logit", (6, 9)),  # 24 x 33 into 96 x 48: 48 x 66, padded to 48 x 72
        (("--method", "maskclip", "--frame", 0, *BRIEF, "--key_smoothing", 1.0), "probability", (3, 5)),
        (("--method", "maskclip-v", *BRIEF), "logit", (4, 4)),
        (("--method", "maskclip-v", "--frame", 48, "--flip", *BRIEF), "logit", (6, 6)),
    ],
)
def test_files_say_what_they_hold(desk: Desk, options: tuple, kind: str, grid: tuple[int, int]) -> None:
    ended = desk.run("generate_cams", *options)
    assert ended.code == 0, ended.err
    stored = made(desk, "a")
    assert stored.kind == kind and stored.maps.shape == (2, *grid) and stored.size == (24, 33)
    assert read_made_by(desk.cams / "a.npz")["kind"] == kind
    assert made(desk, "c").maps.shape[0] == 0  # no labels


def test_files_of_clip_es_do_not_speak_of_maskclip(desk: Desk) -> None:
    assert desk.run("generate_cams").code == 0
    assert not {"kind", "maskclip"} & set(read_made_by(desk.cams / "a.npz"))


@pytest.mark.usefixtures("quick_crf")
@pytest.mark.parametrize("extra", [(), ("--key_smoothing", 1.0), ("--labels", "all")])
def test_both_roads_to_masks_give_the_same_bytes(desk: Desk, extra: tuple) -> None:
    options = ("--method", "maskclip", *FEW, *extra)
    assert desk.run("generate_cams", *options).code == 0
    staged = desk.run("eval_cam_with_crf", "--gt_root", desk.data / "SegmentationClass", "--json", "staged.json")
    assert staged.code == 0, staged.err
    direct = desk.root / "direct"
    ended = desk.command(
        "scripts.run", *desk.options("generate_cams")[:4], "--model", desk.weights, "--device", "cpu", *options,
        "--pseudo_mask_save_path", direct, "--gt_root", desk.data / "SegmentationClass", "--json", "direct.json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for image_id in "abc":
        name = f"{image_id}.png"
        assert (desk.masks / name).read_bytes() == (direct / name).read_bytes()
    assert json.loads(Path("staged.json").read_text())["miou"] == json.loads(Path("direct.json").read_text())["miou"]


def test_scores_have_no_background_to_choose(desk: Desk) -> None:
    assert desk.run("generate_cams", "--method", "maskclip-v", *BRIEF).code == 0
    ended = desk.run("eval_cam", "--json", "scores.json")
    assert ended.code == 0 and "exponent" not in ended.out
    assert "background" not in json.loads(Path("scores.json").read_text())


def test_a_kind_that_nobody_knows_is_a_file_that_fails(desk: Desk) -> None:
    assert desk.run("generate_cams", "--method", "maskclip-v", *BRIEF).code == 0
    for image_id in "abc":
        path = desk.cams / f"{image_id}.npz"
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        arrays["made_by"] = np.array(str(arrays["made_by"]).replace('"logit"', '"heat"'))
        np.savez(path, **arrays)
    ended = desk.run("eval_cam")
    assert ended.code == 3 and "maps of kind heat" in ended.err + ended.out


def test_zero_shot_scores_every_class(desk: Desk) -> None:
    assert desk.run("generate_cams", "--method", "maskclip", *FEW, "--labels", "all").code == 0
    for image_id in "abc":
        assert made(desk, image_id).keys.tolist() == list(range(20))


def test_a_folder_without_labels_is_zero_shot(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\ncat\nbus\n")
    options = ("--dataset", "folder", "--img_root", desk.data / "JPEGImages", "--classes", tmp_path / "classes.txt",
               "--model", desk.weights, "--device", "cpu", "--cam_out_dir", desk.cams)  # fmt: skip
    assert desk.command("generate_cams", *options).code == 2  # CLIP-ES needs them
    ended = desk.command("generate_cams", *options, "--method", "maskclip", *FEW)
    assert ended.code == 0, ended.err
    assert read_maps(desk.cams / "c.npz", "attn_highres", 3).keys.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("quick_crf")
def test_a_data_set_without_background(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class indices are the labels; an image without labels has no mask."""
    monkeypatch.setattr(voc12.spec, "SPEC", replace(voc12.spec.SPEC, has_background=False))
    for image_id in "abc":
        path = desk.data / "SegmentationClass" / f"{image_id}.png"
        truth = np.array(Image.open(path))
        Image.fromarray(np.where(truth == 15, 14, np.where(truth == 1, 0, 255)).astype(np.uint8)).save(path)
    assert desk.run("generate_cams", "--method", "maskclip", *FEW).code == 0
    assert made(desk, "b").maps.max() == 0  # one class: the best everywhere
    assert desk.run("eval_cam", "--json", "scores.json").code == 0
    assert len(json.loads(Path("scores.json").read_text())["classes"]) == 20
    ended = desk.run("eval_cam_with_crf")
    assert ended.code == 3 and "no labels" in ended.err + ended.out
    assert set(np.unique(Image.open(desk.masks / "a.png"))) <= {0, 14, 255}
    assert set(np.unique(Image.open(desk.masks / "b.png"))) == {11}  # dog


# --- which models and options go together ------------------------------------------------------------


def test_a_resnet_goes_with_maskclip_only(desk: Desk, resnet_weights: Path) -> None:
    ended = desk.run("generate_cams", "--model", resnet_weights)
    assert ended.code == 2 and "ResNet" in ended.err
    for method, options, grid in (("maskclip", FEW, (2, 3)), ("maskclip-v", BRIEF, (2, 2))):
        ended = desk.run("generate_cams", "--model", resnet_weights, "--method", method, *options, "--overwrite")
        assert ended.code == 0 and "ResNet, 512 channels" in ended.out, ended.err
        assert made(desk, "a").maps.shape == (2, *grid)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "maskclipp"), "expected one of clip-es, maskclip, maskclip-v"),
        (("--key_smoothing", 0.5), "--method maskclip"),
        (("--method", "maskclip-v", "--prompt_denoising", 0.5), "--method maskclip"),
        (("--frame", 96, 48), "--max_side"),
        (("--method", "maskclip", "--frame", 96), "LONG SHORT"),
        (("--method", "maskclip-v", "--frame", 96, 48), "one side"),
    ],
)
def test_options_that_a_method_does_not_know(desk: Desk, options: tuple, words: str) -> None:
    ended = desk.run("generate_cams", *options)
    assert ended.code == 2 and words in ended.err and len(ended.err.splitlines()) == 1


def test_one_photo(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import stage_segment

    monkeypatch.setattr(stage_segment, "dense_crf", lambda image, probs, settings, backend: probs / probs.sum(axis=0))
    ended = desk.command(
        "scripts.segment", desk.image("a"), "--labels", "dog", "person", "--model", desk.weights, "--device", "cpu",
        "--out", "results", "--method", "maskclip", *FEW,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert Image.open(next(Path("results").glob("*mask*.png"))).size == (33, 24)
