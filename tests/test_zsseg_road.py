"""zsseg on the whole road, as commands: photos -> regions, scores -> labels, masks, pictures; a line for a mistake."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip.load import Clip, load_clip
from clip.templates import VILD14
from clip.text import encode_prompts
from clip.vision import class_token_features, run_block, vision_trunk
from common.images import read_image
from dataset.mask_png import read_mask
from pipeline.files.cam_file import read_made_by, read_maps
from pipeline.steps.regions import LabelMap, RegionMaps, RunLengths
from tests.made import made
from tests.support import Command, Ended, replace_photo
from tests.zsseg.small import SIZES, small_maskformer
from tests.zsseg.test_regions import by_hand
from voc12.spec import SPEC
from zsseg.checkpoint import About, write_checkpoint
from zsseg.proposals.table import PROPOSERS
from zsseg.regions import Crops

pytestmark = pytest.mark.slow

METHOD = ("--method", "zsseg", "--device", "cpu", "--templates", "single")
OPTIONS = (*METHOD, "--fz_scale", 30, "--fz_min_size", 40)


class Desk:
    """A small data set, weights, and the commands on them."""

    def __init__(self, command: Command, world: Path, weights: Path, root: Path) -> None:
        self.command, self.world, self.weights, self.root = command, world, weights, root
        self.cams, self.masks, self.regions = root / "cams", root / "masks", root / "regions"
        self.data = ("--dataset", "voc12", "--img_root", world)

    def generate(self, *more: object, options: tuple = OPTIONS) -> Ended:
        places = ("--cam_out_dir", self.cams, "--model", self.weights)
        return self.command("generate_cams", *self.data, *options, *places, *more)

    def from_folder(self, *more: object) -> Ended:
        options = (*METHOD, "--proposals", "folder", "--proposal_dir", self.regions)
        return self.generate(*more, options=options)

    def photo(self, image_id: str) -> np.ndarray:
        return np.asarray(read_image(self.world / f"JPEGImages/{image_id}.jpg"))


@pytest.fixture
def desk(command: Command, world: Path, weights: Path, tmp_path: Path) -> Desk:
    return Desk(command, world, weights, tmp_path)


def texts_by_hand(clip: Clip, classes: list[int]) -> torch.Tensor:
    names = [SPEC.classes[index] for index in classes] + list(SPEC.background_prompts)
    return encode_prompts(clip, [[template.replace("{}", name) for template in VILD14] for name in names])


def probabilities_by_hand(clip: Clip, rgb: np.ndarray, mask: np.ndarray, text: torch.Tensor) -> np.ndarray:
    """Of one region, alone and step by step."""
    trunk = vision_trunk(clip.visual, by_hand(rgb, mask, Crops())[None], 0, positions="bicubic")
    output = run_block(clip.visual.transformer.resblocks[-1], trunk.last_input)[0]
    feature = torch.nn.functional.normalize(class_token_features(clip.visual, output)[0], dim=0)
    return torch.softmax(100 * text @ feature, dim=0).numpy()


def test_a_pixel_has_the_probabilities_of_its_region(desk: Desk) -> None:
    ended = desk.generate("--batch_size", 4, "--region_batch", 5, "--templates", "auto")
    assert ended.code == 0 and "proposals felzenszwalb" in ended.out, ended.err
    clip, regions_seen = load_clip(str(desk.weights), activation="quick_gelu"), 0
    for image_id, classes in {"a": [0], "b": [0, 11, 14]}.items():
        stored = read_maps(desk.cams / f"{image_id}.npz", "attn_highres", 20)
        assert isinstance(stored.maps, RegionMaps) and stored.kind == "probability"
        keys, found = stored.keys.tolist(), stored.resized(stored.size)
        assert sorted(keys) == classes and found.shape == (len(keys), *desk.photo(image_id).shape[:2])
        labels, text = stored.maps.regions, texts_by_hand(clip, keys)
        assert isinstance(labels, LabelMap)
        for number in range(len(labels)):
            mask = labels.labels == number
            wanted = probabilities_by_hand(clip, desk.photo(image_id), mask, text)[: len(keys)]
            assert np.abs(found[:, mask] - wanted[:, None]).max() < 1e-3  # float16
            regions_seen += 1
    assert regions_seen > 8 and len(read_maps(desk.cams / "c.npz", "highres", 20).keys) == 0
    sizes = [path.stat().st_size for path in desk.cams.glob("*.npz")]
    assert max(sizes) < 4000, "regions and scores, and no maps at full size"


@pytest.mark.usefixtures("quick_crf")
@pytest.mark.parametrize("labels", [(), ("--labels", "all")])
def test_both_roads_to_masks_give_the_same_bytes(desk: Desk, labels: tuple) -> None:
    assert desk.generate(*labels).code == 0
    crf = ("--confidence", 0.5, "--gt_root", desk.world / "SegmentationClass")
    out = ("--cam_out_dir", desk.cams, "--pseudo_mask_save_path", desk.masks)
    ended = desk.command("eval_cam_with_crf", *desk.data, *labels, *out, *crf)
    assert ended.code == 0, ended.err
    places = ("--model", desk.weights, "--pseudo_mask_save_path", desk.root / "direct")
    ended = desk.command("scripts.run", *desk.data, *labels, *OPTIONS, *places, *crf)
    assert ended.code == 0, ended.err
    for image_id in "abcde":
        assert (desk.masks / f"{image_id}.png").read_bytes() == (desk.root / f"direct/{image_id}.png").read_bytes()
    if not labels:
        page = ("--cam_out_dir", desk.cams, "--masks", desk.masks, "--out", desk.root / "page.html")
        ended = desk.command("scripts.report", *desk.data, *page)
        assert ended.code == 0 and (desk.root / "page.html").stat().st_size > 10_000, ended.err


def test_full_size_files_score_the_same(desk: Desk) -> None:
    scores = []
    for save in ("grid", "highres"):
        desk.cams = desk.root / save
        assert desk.generate("--labels", "all", "--save", save).code == 0
        report = desk.root / f"{save}.json"
        rule = ("--labels", "all", "--cam_out_dir", desk.cams, "--json", report)
        assert desk.command("eval_cam", *desk.data, *rule).code == 0
        scores.append(json.loads(report.read_text()))
    assert scores[0]["classes"] == scores[1]["classes"] and scores[0]["pixels"] > 0
    assert read_maps(desk.cams / "a.npz", "highres", 20).maps.shape == (20, 31, 40)


@pytest.mark.usefixtures("quick_crf")
def test_one_photo_and_any_words(desk: Desk) -> None:
    photo, out = desk.world / "JPEGImages/a.jpg", desk.root / "out"
    ended = desk.command(
        "scripts.segment", photo, *OPTIONS, "--labels", "red", "blue", "--model", desk.weights, "--out", out
    )
    assert ended.code == 0, ended.err
    assert Image.open(out / "a_mask.png").size == (40, 31) and Image.open(out / "a_steps.png").width > 80


# --- regions from a folder ------------------------------------------------------------------------


def test_regions_of_a_folder_are_those_of_the_same_options(desk: Desk) -> None:
    proposing = ("--fz_scale", 30, "--fz_min_size", 40, "--out", desk.regions)
    assert desk.command("scripts.propose", *desk.data, *proposing).code == 0
    assert desk.from_folder().code == 0
    found = {image_id: read_maps(desk.cams / f"{image_id}.npz", "highres", 20) for image_id in "abde"}
    record = read_made_by(desk.cams / "a.npz")
    assert record["proposals"] == "folder" and record["regions"] != read_made_by(desk.cams / "b.npz")["regions"]
    before = made(desk.cams)
    again = desk.from_folder()
    assert "5 already there" in again.out and made(desk.cams) == before
    (desk.regions / "b.png").write_bytes((desk.regions / "b.png").read_bytes() + b"\0")  # another file: made again
    again = desk.from_folder()
    assert "1 CAM file written, 4 already there" in again.out, again.out
    desk.cams = desk.root / "direct"
    assert desk.generate().code == 0
    for image_id, stored in found.items():
        direct = read_maps(desk.cams / f"{image_id}.npz", "highres", 20)
        assert np.array_equal(stored.maps.regions.labels, direct.maps.regions.labels)
        assert np.array_equal(stored.maps.scores, direct.maps.scores)


def test_a_bad_file_of_regions_costs_its_photo_only(desk: Desk) -> None:
    desk.regions.mkdir()
    good = {image_id: desk.photo(image_id).shape[:2] for image_id in "abcde"}
    for image_id, size in good.items():
        np.save(desk.regions / f"{image_id}.npy", np.arange(size[0] * size[1]).reshape(size) // 400)
    (desk.regions / "a.npy").write_bytes(b"\x93NUMPY")
    (desk.regions / "b.npy").unlink()
    np.save(desk.regions / "d.npy", np.zeros((5, 6), int))
    ended = desk.from_folder()
    assert ended.code == 3 and "2 CAM files written" in ended.out and "3 images failed" in ended.err
    for told in ("a.npy: cannot be read as an array", "no regions for this photo", "of a photo of 5 x 6 pixels"):
        assert told in ended.err
    missing = desk.generate("--proposals", "folder", options=("--method", "zsseg"))
    assert missing.code == 2 and "--proposal_dir is needed" in missing.err


@pytest.mark.usefixtures("quick_crf")
def test_a_photo_without_any_valid_region_is_background(desk: Desk) -> None:
    desk.regions.mkdir()
    for image_id in "abcde":
        height, width = desk.photo(image_id).shape[:2]
        np.savez(desk.regions / f"{image_id}.npz", masks=np.zeros((3, height, width), bool))
    assert desk.from_folder().code == 0
    stored = read_maps(desk.cams / "b.npz", "highres", 20)
    assert isinstance(stored.maps.regions, RunLengths) and not stored.resized(stored.size).any()
    out = ("--cam_out_dir", desk.cams, "--pseudo_mask_save_path", desk.masks)
    assert desk.command("eval_cam_with_crf", *desk.data, *out).code == 0
    assert not read_mask(desk.masks / "b.png").any()


# --- regions with class probabilities -------------------------------------------------------------


def test_the_ensemble_with_a_network(desk: Desk, tmp_path: Path) -> None:
    """Weight 0 is CLIP alone; another weight mixes in what the network says of seen and of unseen classes."""
    clip = load_clip(str(desk.weights), activation="quick_gelu")
    network = small_maskformer(3, sizes=SIZES.__class__(**{**vars(SIZES), "text_width": clip.texts.embedding}))
    about = About(network.sizes, ("x", "y"), {"templates": "single", "clip": clip.fingerprint}, short=64, longest=96)
    write_checkpoint(tmp_path / "net.safetensors", network, about)
    options = ("--method", "zsseg", "--proposals", "maskformer", "--maskformer", tmp_path / "net.safetensors")
    maps = {}
    for weight in (0.0, 0.7):
        desk.cams = desk.root / str(weight)
        ended = desk.generate("--labels", "all", "--ensemble", weight, options=(*options, "--device", "cpu"))
        assert ended.code == 0, ended.err
        stored = read_maps(desk.cams / "b.npz", "highres", 20)
        assert len(stored.maps.regions) == SIZES.queries and stored.maps.regions.size == (64, 80)
        maps[weight] = stored.maps
    by_clip, mixed = maps[0.0].scores.astype(float), maps[0.7].scores.astype(float)
    seen_by_clip = by_clip.any(axis=1)
    assert seen_by_clip.any()
    unseen = np.isin(np.arange(20), SPEC.unseen)
    shares = np.where(unseen, 0.7, 0.3)  # CLIP's
    desk.cams = desk.root / "views"
    more = ("--ensemble", 0.7, "--flip", "--scales", 0.75, 1.25)
    assert desk.generate("--labels", "all", *more, options=(*options, "--device", "cpu")).code == 0
    views = read_maps(desk.cams / "b.npz", "highres", 20).maps
    assert len(views.regions) == 6 * SIZES.queries and views.regions.size == (64, 80)
    assert np.array_equal(views.regions.logits[: SIZES.queries], maps[0.7].regions.logits)
    assert np.allclose(6 * views.scores[: SIZES.queries].astype(float), mixed, rtol=0.01, atol=1e-5)  # float16
    network_alone = (mixed / np.where(seen_by_clip[:, None], by_clip, 1) ** shares) ** (1 / (1 - shares))
    sums = network_alone[:, ~unseen].sum(axis=1)
    assert (sums < 1.02).all() and np.isfinite(network_alone).all()


def test_clips_own_factor_of_the_cosines(desk: Desk) -> None:
    """Scores of one softmax at two factors: the logarithms of their ratios are as the factors."""
    clip, scores = load_clip(str(desk.weights), activation="quick_gelu"), {}
    assert float(clip.logit_scale) != 100
    for scale in (100, 0):
        desk.cams = desk.root / f"scale{scale}"
        assert desk.generate("--labels", "all", "--logit_scale", scale).code == 0
        scores[scale] = read_maps(desk.cams / "b.npz", "highres", 20).maps.scores.astype(float)
    hard, soft = (np.log(scores[scale][:, :1] / scores[scale]) for scale in (100, 0))
    sure = (scores[100] > 1e-3) & (scores[0] > 1e-3) & (np.abs(hard) > 0.1)
    assert sure.sum() > 10
    assert np.median(soft[sure] / hard[sure]) == pytest.approx(float(clip.logit_scale) / 100, rel=0.05)


# --- mistakes -------------------------------------------------------------------------------------


def test_mistakes_are_one_line_each(desk: Desk) -> None:
    for more, told in (
        (("--flip",), "--scales and --flip: not with --method zsseg"),
        (("--proposal_dir", "x"), "--proposal_dir goes with --method zsseg --proposals folder"),
        (("--region_expand", "0.5"), "0.5: expected a number from 1 on"),
        (("--proposals", "universal"), "--network is needed"),
        (("--proposals", "maskformer"), "--maskformer is needed"),
    ):
        options = METHOD if "--proposals" in more else OPTIONS
        ended = desk.generate(*more, options=options)
        assert ended.code == 2 and told in ended.err and ended.err.count("\n") == 1, ended.err
    names = desk.root / "classes.txt"
    names.write_text("dog\n" + "\u9f98" * 60 + "\n")  # a few letters, many tokens
    data = ("--dataset", "folder", "--img_root", desk.world / "JPEGImages", "--classes", names)
    ended = desk.command("generate_cams", *data, *OPTIONS, "--model", desk.weights, "--cam_out_dir", desk.cams)
    assert ended.code == 2 and "this CLIP takes 75; shorten it" in ended.err


def test_help_shows_the_options_of_what_was_chosen(command: Command) -> None:
    told = command("generate_cams", "--method", "zsseg", "--help").out
    assert "--ensemble" in told and "--fz_scale" in told and "--sam_points" not in told
    told = command("generate_cams", "--method", "zsseg", "--proposals", "sam", "--help").out
    assert "--sam_points" in told and "--fz_scale" not in told
    assert "--region_fill" not in command("generate_cams", "--help").out


def test_a_replaced_photo_is_worked_on_again(desk: Desk) -> None:
    assert desk.generate().code == 0
    replace_photo(desk.world / "JPEGImages/a.jpg")
    ended = desk.generate()
    assert ended.code == 0 and "1 CAM file written, 4 already there" in ended.out


@pytest.mark.parametrize("name", [name for name, proposer in PROPOSERS.items() if not proposer.network])
def test_what_proposes_travels_to_other_processes(name: str) -> None:
    proposer = PROPOSERS[name]
    propose = pickle.loads(pickle.dumps(proposer.load(proposer.settings(), None)))  # noqa: S301
    assert callable(propose)
