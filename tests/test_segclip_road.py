"""SegCLIP on the whole road, as commands: images -> scores -> labels, masks, pictures; and a line for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import plain_segclip as plain
from clip.text import encode_prompts
from dataset.mask_png import read_mask
from pipeline.files.cam_file import read_made_by, read_maps
from pipeline.steps.scores import confusion_matrix, scores_of
from report.pictures import label_colours
from segclip.load import load_segclip
from tests.segclip.small import small_segclip
from tests.support import Command, Ended
from voc12.spec import SPEC

pytestmark = pytest.mark.slow

METHOD = ("--method", "segclip", "--device", "cpu")
THRESHOLD = 0.02  # random weights know nothing: their scores are low


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segclip") / "segclip.bin"
    network = small_segclip(7, decoder=False, vocabulary=49408)
    network.clip.logit_scale.fill_(6.0)  # cut at log 100: its texts are all alike
    torch.save(network.state_dict(), path)
    return path


class Desk:
    """A small data set, a checkpoint, and the commands on them."""

    def __init__(self, command: Command, world: Path, checkpoint: Path, root: Path) -> None:
        self.command, self.world, self.checkpoint, self.root = command, world, checkpoint, root
        self.cams, self.masks = root / "cams", root / "masks"
        self.data = ("--dataset", "voc12", "--img_root", world)

    def generate(self, *more: object, model: Path | None = None) -> Ended:
        places = ("--cam_out_dir", self.cams, "--model", model or self.checkpoint)
        return self.command("generate_cams", *self.data, *METHOD, *places, *more)

    def truth(self, image_id: str) -> np.ndarray:
        return read_mask(self.world / "SegmentationClass" / f"{image_id}.png")

    def plain_labels(self, image_id: str) -> np.ndarray:
        clip = load_segclip(self.checkpoint)
        texts = encode_prompts(clip, [(f"a photo of a {group[0]}.",) for group in SPEC.segclip_prompts])
        state = {f"clip.{name}": value for name, value in clip.model.state_dict().items()}
        photo = plain.read_photo(self.world / "JPEGImages" / f"{image_id}.jpg")
        return plain.label_map(state, photo, texts, THRESHOLD)


@pytest.fixture
def desk(command: Command, world: Path, checkpoint: Path, tmp_path: Path) -> Desk:
    return Desk(command, world, checkpoint, tmp_path)


def test_scores_are_those_of_the_plain_transcription(desk: Desk) -> None:
    """Without labels: generate_cams.py, then eval_cam.py by mmsegmentation's rule, in two parts of the list."""
    cut = ("--background_threshold", THRESHOLD)
    for part in ("0/2", "1/2"):
        ended = desk.generate("--labels", "all", "--shard", part, "--batch_size", 2, *cut)
        assert ended.code == 0, ended.err
    assert "SegCLIP, 2+2 blocks, width 128, patch 8, 5 groups" in ended.out
    report = desk.root / "scores.json"
    rule = ("--labels", "all", "--absent", "union", "--json", report)
    assert desk.command("eval_cam", *desk.data, "--cam_out_dir", desk.cams, *rule).code == 0
    confusion, labels = np.zeros((21, 22), np.int64), set()
    for image_id in "abcde":
        found = desk.plain_labels(image_id)
        labels |= set(np.unique(found).tolist())
        confusion += confusion_matrix(desk.truth(image_id), found, 21)
    wanted, scores = scores_of(confusion, "union"), json.loads(report.read_text())
    assert len(labels) > 3 and scores["images"] == 5
    assert abs(scores["miou"] - wanted.miou) < 2e-3 and abs(scores["pixel_accuracy"] - wanted.pixel_accuracy) < 2e-3
    record = read_made_by(desk.cams / "a.npz")
    assert record["kind"] == "score" and record["background_threshold"] == THRESHOLD and record["templates"] == "simple"
    refused = desk.generate("--labels", "all")  # VOC's own
    assert refused.code == 2 and "background_threshold" in refused.err


@pytest.mark.usefixtures("quick_crf")
@pytest.mark.parametrize("labels", [(), ("--labels", "all")])
def test_both_roads_to_masks_give_the_same_bytes(desk: Desk, labels: tuple) -> None:
    assert desk.generate(*labels, "--keep_groups").code == 0
    stored = read_maps(desk.cams / "b.npz", "attn_highres", 20)
    assert sorted(stored.keys.tolist()) == (list(range(20)) if labels else [0, 11, 14]) and stored.maps.shape[1:] == (
        32,
        40,
    )
    crf = ("--confidence", 0.5, "--gt_root", desk.world / "SegmentationClass")
    out = ("--cam_out_dir", desk.cams, "--pseudo_mask_save_path", desk.masks)
    assert desk.command("eval_cam_with_crf", *desk.data, *labels, *out, *crf).code == 0
    direct = desk.root / "direct"
    places = ("--model", desk.checkpoint, "--pseudo_mask_save_path", direct, "--keep_groups")
    ended = desk.command("scripts.run", *desk.data, *labels, *METHOD, *places, *crf)
    assert ended.code == 0, ended.err
    for image_id in "abcde":
        assert (desk.masks / f"{image_id}.png").read_bytes() == (direct / f"{image_id}.png").read_bytes()


def test_a_class_list_of_ones_own_needs_no_labels(desk: Desk) -> None:
    (desk.root / "classes.txt").write_text("dog\ncat\ntraffic light: traffic light; stoplight\n")
    data = ("--dataset", "folder", "--img_root", desk.world / "JPEGImages", "--classes", desk.root / "classes.txt")
    places = ("--cam_out_dir", desk.cams, "--model", desk.checkpoint)
    ended = desk.command("generate_cams", *data, *METHOD, *places, "--background_threshold", 0)
    assert ended.code == 0, ended.err
    stored = read_maps(desk.cams / "c.npz", "attn_highres", 3)
    assert stored.keys.tolist() == [0, 1, 2] and float(stored.maps.max(axis=0).min()) > 0  # nothing is background


@pytest.mark.usefixtures("quick_crf")
def test_the_demo_writes_the_published_pictures(desk: Desk) -> None:
    """Without labels all classes are asked for; the prediction is the plain one, the groups are the network's."""
    photo, out = desk.world / "JPEGImages/a.jpg", desk.root / "out"
    options = ("--dataset", "voc12", "--model", desk.checkpoint, "--out", out, "--background_threshold", THRESHOLD)
    views = ("input", "pred", "input_pred", "all_groups", "first_group", "final_group", "input_pred_label")
    ended = desk.command("scripts.segment", photo, *METHOD, *options, "--vis", *views)
    assert ended.code == 0 and "labels by CLIP" not in ended.out, ended.err
    kinds = sorted(path.name.removeprefix("a_").removesuffix(".png") for path in out.iterdir())
    assert kinds == sorted(("mask", "overlay", "steps", *views))
    pictures = {view: np.asarray(Image.open(out / f"a_{view}.png").convert("RGB")) for view in views}
    assert np.array_equal(pictures["input"], np.asarray(Image.open(photo)))
    wanted = label_colours()[desk.plain_labels("a")]
    assert (pictures["pred"] != wanted).any(axis=2).mean() < 2e-3 and len(np.unique(wanted)) > 2
    assert not np.array_equal(pictures["input_pred"], pictures["input_pred_label"])
    assert all(pictures[view].shape == (31, 40, 3) for view in views if view != "all_groups")
    tinted = {tuple(pixel) for pixel in (pictures["final_group"].astype(int) - pictures["input"]).reshape(-1, 3)[::7]}
    assert len(tinted) > 1

    plain_clip = ("--labels", "dog", "--dataset", "voc12", "--model", "x.pt", "--out", out)
    refused = desk.command("scripts.segment", photo, *plain_clip, "--vis", "first_group")
    assert refused.code == 2 and refused.err == "error: --vis first_group: goes with --method segclip\n"


def test_mistakes_are_one_line_each(desk: Desk, weights: Path) -> None:
    state = torch.load(desk.checkpoint, weights_only=True)
    del state["clip.visual.transformer.layers0.1.ln_1.weight"]
    torch.save(state, desk.root / "torn.bin")
    plain_model = ("--model", desk.checkpoint, "--cam_out_dir", desk.cams)
    bare = ("--dataset", "context59", "--img_root", desk.world / "JPEGImages", "--labels", "all")
    mistakes = {
        "of a plain CLIP; expected a SegCLIP checkpoint": lambda: desk.generate(model=weights),
        "torn.bin: weight": lambda: desk.generate(model=desk.root / "torn.bin"),
        "the weights of a SegCLIP, which goes with --method segclip": lambda: desk.command(
            "generate_cams", *desk.data, *plain_model
        ),
        "TagCLIP needs a CLIP; give --labels": lambda: desk.generate("--labels", "clip"),
        "TagCLIP needs a CLIP": lambda: desk.command(
            "scripts.segment",
            desk.world / "JPEGImages/a.jpg",
            "--labels",
            "clip",
            "--dataset",
            "voc12",
            *METHOD,
            "--model",
            desk.checkpoint,
            "--out",
            desk.root / "out",
        ),
        "--model is needed with --method segclip": lambda: desk.command(
            "generate_cams", *desk.data, *METHOD, "--cam_out_dir", desk.cams
        ),
        "context59 has no background class": lambda: desk.command(
            "generate_cams", *bare, *METHOD, *plain_model, "--background_threshold", 0.3
        ),
        "--background_threshold goes with --method segclip": lambda: desk.command(
            "generate_cams", *desk.data, *plain_model, "--background_threshold", 0.3
        ),
    }
    for reason, run in mistakes.items():
        ended = run()
        assert ended.code == 2 and reason in ended.err, (reason, ended)
        assert len(ended.err.strip().splitlines()) == 1 and not list(desk.cams.glob("*.npz"))
