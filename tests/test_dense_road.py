"""The MaskCLIP methods on the whole road, as commands: images -> dense maps -> masks -> scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from dataset import cityscapes
from pipeline.files.cam_file import StoredMaps, read_made_by, read_maps
from tests.made import made
from tests.support import Desk, Ended, openai_file, photo
from tests.tiny_resnet import tiny_resnet_model
from voc12 import context59

pytestmark = pytest.mark.slow

BRIEF = ("--templates", "dataset")  # one sentence a class; the 85 published ones have a test of their own
FEW = ("--frame", 96, 48, *BRIEF)  # the published 2048 x 512 would take long on a CPU


@pytest.fixture
def resnet_weights(tmp_path: Path) -> Path:
    path = tmp_path / "resnet.pt"
    torch.save(openai_file(tiny_resnet_model()), path)
    return path


def stored_maps(desk: Desk, image_id: str) -> StoredMaps:
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
    stored = stored_maps(desk, "a")
    assert stored.kind == kind and stored.maps.shape == (2, *grid) and stored.size == (24, 33)
    assert read_made_by(desk.cams / "a.npz")["kind"] == kind
    assert stored_maps(desk, "c").maps.shape[0] == 0  # no labels


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


def test_a_folder_without_labels_is_zero_shot(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\ncat\nbus\n")
    options = ("--dataset", "folder", "--img_root", desk.data / "JPEGImages", "--classes", tmp_path / "classes.txt",
               "--model", desk.weights, "--device", "cpu", "--cam_out_dir", desk.cams)  # fmt: skip
    assert desk.command("generate_cams", *options).code == 2  # CLIP-ES needs them
    ended = desk.command("generate_cams", *options, "--method", "maskclip", *FEW)
    assert ended.code == 0, ended.err
    assert read_maps(desk.cams / "c.npz", "attn_highres", 3).keys.tolist() == [0, 1, 2]


# --- data sets without a background class -----------------------------------------------------------


class Scenes:
    """A data set's made images and raw annotations, the masks and labels that are prepared of them, and its commands.

    raw  raw values by the id of the annotation, (H, W)
    """

    def __init__(self, desk: Desk, name: str, raw: dict[str, np.ndarray], ending: str, image_ending: str = "") -> None:
        self.desk, self.name, self.home = desk, name, desk.root / name
        self.images, self.masks, self.cams = self.home / "images", self.home / "masks", self.home / "cams"
        for seed, (key, values) in enumerate(raw.items()):
            for place in (self.images / f"{key}{image_ending}.png", self.home / "raw" / f"{key}{ending}"):
                place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(values.shape, seed)).save(self.images / f"{key}{image_ending}.png")
            if ending == ".mat":
                savemat(self.home / "raw" / f"{key}.mat", {"LabelMap": values.astype(np.uint16)})
            else:
                Image.fromarray(values.astype(np.uint8)).save(self.home / "raw" / f"{key}{ending}")
        self.split, self.labels = self.home / "split.txt", self.home / "labels.txt"

    def prepare(self) -> None:
        lists = ("--split_out", self.split, "--labels_out", self.labels)
        ended = self.desk.command(
            "scripts.prepare_dense", self.name, "--raw", self.home / "raw", "--masks_out", self.home / "truth", *lists
        )
        assert ended.code == 0, ended.err

    def run(self, name: str, *more: object) -> Ended:
        data = ("--dataset", self.name, "--img_root", self.images, "--split_file", self.split)
        model = ("--model", self.desk.weights, "--device", "cpu")
        places = {
            "generate_cams": ("--cam_out_dir", self.cams, *model),
            "eval_cam": ("--cam_out_dir", self.cams, "--gt_root", self.home / "truth"),
            "eval_cam_with_crf": ("--cam_out_dir", self.cams, "--pseudo_mask_save_path", self.masks),
            "scripts.run": ("--pseudo_mask_save_path", self.home / "direct", *model),
        }
        return self.desk.command(name, *data, *places[name], *more)

    def truth(self, key: str) -> np.ndarray:
        return np.array(Image.open(self.home / "truth" / f"{key}.png"))

    def mask(self, key: str) -> np.ndarray:
        return np.array(Image.open(self.masks / f"{key}.png"))


def context(desk: Desk) -> Scenes:
    """Aeroplane (label 2 of 459) and wood (458) beside others; `b` shows cows (98) only; `c` sky (360) and bags (9)."""
    generator = np.random.default_rng(3)
    raw = {
        "2008_a": generator.choice([2, 458, 7, 0], (24, 33)),
        "2008_b": generator.choice([98, 1], (24, 32)),
        "2008_c": generator.choice([360, 9, 458], (17, 40)),
    }
    return Scenes(desk, "context59", raw, ".mat")


def confusion_by_hand(scenes: Scenes, keys: list[str], count: int) -> np.ndarray:
    """(C, C+1) of the written masks, pixel by pixel; 255 in a mask is the last column."""
    counts = np.zeros((count, count + 1), np.int64)
    for key in keys:
        for true, found in zip(scenes.truth(key).ravel().tolist(), scenes.mask(key).ravel().tolist()):
            if true != 255:
                counts[true, min(found, count)] += 1
    return counts


@pytest.mark.usefixtures("quick_crf")
def test_zero_shot_on_pascal_context(desk: Desk) -> None:
    """From .mat files to scores of seen and unseen classes: every class is scored at every pixel."""
    scenes = context(desk)
    scenes.prepare()
    assert set(np.unique(scenes.truth("2008_a"))) == {0, 58, 255}
    assert scenes.labels.read_text() == "2008_a 0 58\n2008_b 19\n2008_c 1 46 58\n"
    ended = scenes.run("generate_cams", "--method", "maskclip", *FEW, "--labels", "all")
    assert ended.code == 0, ended.err
    stored = read_maps(scenes.cams / "2008_b.npz", "attn_highres", 59)
    assert stored.keys.tolist() == list(range(59)) and stored.kind == "logit"
    scored = ("--gt_root", scenes.home / "truth", "--absent", "union", "--json", "crf.json")
    ended = scenes.run("eval_cam_with_crf", "--confidence", 0.02, *scored)
    assert ended.code == 0, ended.err
    assert "--absent union" in ended.out and "hIoU" in ended.out
    told = json.loads(Path("crf.json").read_text())
    assert told["absent"] == "union" and told["dataset"] == "context59" and "miou_unseen" in told

    assert set(np.unique(scenes.mask("2008_a"))) <= {*range(59), 255}


def put_predictions(scenes: Scenes, keys: list[str]) -> None:
    """Masks that are right at two pixels of three; elsewhere a bag, a cow, a sofa (which none shows), or nothing."""
    generator = np.random.default_rng(5)
    scenes.masks.mkdir()
    for key in keys:
        truth = scenes.truth(key)
        other = generator.choice(np.array([1, 19, 48, 255], np.uint8), truth.shape)
        kept = (truth != 255) & (generator.random(truth.shape) < 2 / 3)
        Image.fromarray(np.where(kept, truth, other)).save(scenes.masks / f"{key}.png")


def test_scores_on_pascal_context_are_those_of_a_loop(desk: Desk) -> None:
    scenes, keys = context(desk), ["2008_a", "2008_b", "2008_c"]
    scenes.prepare()
    put_predictions(scenes, keys)
    counts = confusion_by_hand(scenes, keys, 59)
    right, union = np.diag(counts), counts.sum(axis=1) + counts[:, :59].sum(axis=0) - np.diag(counts)
    iou = {label: right[label] / union[label] for label in range(59) if union[label]}
    assert sorted(iou) == [0, 1, 19, 46, 48, 58] and iou[48] == 0 and all(iou[label] for label in (0, 1, 19, 46, 58))

    more = ("--cam_type", "png", "--cam_out_dir", scenes.masks, "--json", "scores.json")
    ended = scenes.run("eval_cam", *more, "--absent", "union")
    assert ended.code == 0 and "--absent union" in ended.out and "mIoU of seen classes " in ended.out, ended.err
    told = json.loads(Path("scores.json").read_text())
    seen, unseen = np.mean([iou[1], iou[46], iou[58]]), np.mean([iou[0], iou[19], 0])  # aeroplane, cow, sofa
    assert told["absent"] == "union" and told["miou"] == pytest.approx(np.mean(list(iou.values())))
    assert told["miou_seen"] == pytest.approx(seen) and told["miou_unseen"] == pytest.approx(unseen)
    assert told["hiou"] == pytest.approx(2 * seen * unseen / (seen + unseen))
    assert {name: value for name, value in told["classes"].items() if value is not None} == pytest.approx(
        {context59.CLASSES[label]: value for label, value in iou.items()}
    )
    assert scenes.run("eval_cam", *more).code == 0
    told = json.loads(Path("scores.json").read_text())
    assert told["absent"] == "truth" and told["classes"]["sofa"] is None
    assert told["miou_unseen"] == pytest.approx(np.mean([iou[0], iou[19]])) and told["miou_seen"] == pytest.approx(seen)


@pytest.mark.usefixtures("quick_crf")
@pytest.mark.filterwarnings("ignore:invalid value")  # of the stand-in CRF, where one class's maps are all zero
def test_clip_es_on_pascal_context(desk: Desk) -> None:
    """The classes of an image compete among themselves; an image of one class is all of that class."""
    scenes = context(desk)
    scenes.prepare()
    assert scenes.run("generate_cams").code == 2  # it needs labels
    labels = ("--labels", scenes.labels)
    ended = scenes.run("generate_cams", *labels)
    assert ended.code == 0, ended.err
    stored = read_maps(scenes.cams / "2008_c.npz", "attn_highres", 59)
    assert stored.kind == "cam" and stored.keys.tolist() == [1, 46, 58] and np.isfinite(stored.maps).all()
    scored = ("--gt_root", scenes.home / "truth", "--absent", "union")  # masks keep their scores
    assert scenes.run("eval_cam_with_crf", "--confidence", 0.01, *scored).code == 0
    assert np.unique(scenes.mask("2008_b")).tolist() == [19]
    assert set(np.unique(scenes.mask("2008_c")).tolist()) <= {1, 46, 58} and len(np.unique(scenes.mask("2008_c"))) > 1
    ended = scenes.run("eval_cam")
    assert ended.code == 0 and "exponent" not in ended.out
    ended = scenes.run("scripts.run", *labels, "--confidence", 0.01, *scored, "--json", "direct.json")
    assert ended.code == 0 and json.loads(Path("direct.json").read_text())["absent"] == "union", ended.err
    assert made(scenes.home / "direct") == made(scenes.masks)


def test_cities_are_folders(desk: Desk) -> None:
    """Ids of Cityscapes hold the city; masks and CAM files lie in a folder of that name."""
    raw = {"ulm/ulm_000001_000019": np.array([[7, 7, 24, 0]] * 12).repeat(6, axis=1)}
    scenes = Scenes(desk, "cityscapes", raw, "_gtFine_labelIds.png", "_leftImg8bit")
    scenes.prepare()
    key = "ulm/ulm_000001_000019_leftImg8bit"
    assert scenes.split.read_text() == f"{key}\n" and scenes.labels.read_text() == f"{key} 0 11\n"
    ended = scenes.run("generate_cams", "--method", "maskclip", *FEW, "--labels", scenes.labels)
    assert ended.code == 0 and (scenes.cams / f"{key}.npz").is_file(), ended.err
    ended = scenes.run("eval_cam", "--json", "scores.json")
    assert ended.code == 0 and "hIoU" not in ended.out, ended.err
    assert set(json.loads(Path("scores.json").read_text())["absent_classes"]) == {
        name for name in cityscapes.CLASSES if name not in ("road", "person")
    }
    ended = scenes.run("eval_cam", "--splits")
    assert ended.code == 2 and "--splits: cityscapes has no split" in ended.err and len(ended.err.splitlines()) == 1


@pytest.mark.usefixtures("quick_crf")
def test_voc_without_background(desk: Desk) -> None:
    """Labels are VOC's own; class indices are the mask values; an image without labels has no mask."""
    data = ("--dataset", "voc20")
    assert desk.run("generate_cams", "--method", "maskclip", *FEW, *data).code == 0
    assert stored_maps(desk, "b").maps.max() == 0  # one class: the best everywhere
    ended = desk.run("eval_cam", *data)
    assert ended.code == 2 and "--gt_root is needed to score: python -m scripts.prepare_dense voc20" in ended.err
    raw, truth = desk.data / "SegmentationClass", desk.root / "truth"
    assert desk.command("scripts.prepare_dense", "voc20", "--raw", raw, "--masks_out", truth).code == 0
    for image_id in "abc":
        before = np.array(Image.open(raw / f"{image_id}.png"))
        wanted = np.where(before == 15, 14, np.where(before == 1, 0, 255))
        assert np.array_equal(Image.open(truth / f"{image_id}.png"), wanted)
    assert desk.run("eval_cam", *data, "--gt_root", truth, "--json", "scores.json").code == 0
    assert len(json.loads(Path("scores.json").read_text())["classes"]) == 20
    ended = desk.run("eval_cam_with_crf", *data)
    assert ended.code == 3 and "no labels" in ended.err + ended.out
    assert set(np.unique(Image.open(desk.masks / "a.png"))) <= {0, 14, 255}
    assert set(np.unique(Image.open(desk.masks / "b.png"))) == {11}  # dog


def test_voc_with_background_tells_of_the_split_when_asked(desk: Desk) -> None:
    """The background is among the seen, of which the masks here show two more; none of the unseen is shown."""
    assert desk.run("generate_cams", "--method", "maskclip", *FEW).code == 0
    ended = desk.run("eval_cam", "--json", "scores.json")
    told = json.loads(Path("scores.json").read_text())
    assert "unseen" not in ended.out and told["miou_unseen"] is None and told["hiou"] is None
    assert told["miou_seen"] == pytest.approx(told["miou"])
    ended = desk.run("eval_cam", "--splits")
    assert "mIoU of seen classes, the background among them" in ended.out


def test_a_sweep_by_either_rule(desk: Desk) -> None:
    """The masks show no dog, which is predicted all the same: it is the label of an image."""
    assert desk.run("generate_cams").code == 0
    told = {}
    for rule in ("truth", "union"):
        ended = desk.run("eval_cam", "--absent", rule, "--json", "scores.json", "--cam_eval_thres", 0.05)
        assert ended.code == 0 and f"--absent {rule}: " in ended.out, ended.err
        told[rule] = json.loads(Path("scores.json").read_text())
    assert [told[rule]["absent"] for rule in told] == ["truth", "union"]
    assert told["truth"]["classes"]["dog"] is None and told["union"]["classes"]["dog"] == 0
    swept = [told[rule]["background"]["miou_by_value"] for rule in told]
    assert all(of_union < of_truth for of_truth, of_union in zip(*(values.values() for values in swept)))


# --- which models and options go together ------------------------------------------------------------


def test_a_resnet_goes_with_maskclip_only(desk: Desk, resnet_weights: Path) -> None:
    ended = desk.run("generate_cams", "--model", resnet_weights)
    assert ended.code == 2 and "ResNet" in ended.err
    for method, options, grid in (("maskclip", FEW, (2, 3)), ("maskclip-v", BRIEF, (2, 2))):
        ended = desk.run("generate_cams", "--model", resnet_weights, "--method", method, *options, "--overwrite")
        assert ended.code == 0 and "ResNet, 512 channels" in ended.out, ended.err
        assert stored_maps(desk, "a").maps.shape == (2, *grid)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "maskclipp"), "--method: invalid choice: 'maskclipp'"),
        (("--key_smoothing", 1), "--key_smoothing goes with --method maskclip"),
        (("--method", "clip-es", "--key_smoothing=1"), "--key_smoothing goes with --method maskclip"),
        (("--method", "maskclip-v", "--prompt_denoising", 0.5), "--prompt_denoising goes with --method maskclip"),
        (("--method", "gem", "--box_threshold", 0.5), "--box_threshold goes with --method clip-es or --method excel"),
        (("--frame", 96, 48), "--frame goes with --method maskclip or --method maskclip-v"),
        (("--tag_votes", 2), "--tag_votes goes with --labels clip"),
        (("--method", "maskclip", "--frame", 96), "LONG SHORT"),
        (("--method", "maskclip-v", "--frame", 96, 48), "one side"),
    ],
)
def test_options_that_a_method_does_not_know(desk: Desk, options: tuple, words: str) -> None:
    ended = desk.run("generate_cams", *options)
    assert ended.code == 2 and words in ended.err and len(ended.err.splitlines()) == 1
    assert "goes with" not in words or ended.err.startswith(f"error: {words} (see ")


@pytest.mark.parametrize("name", ["generate_cams", "scripts.run", "scripts.segment"])
def test_help_shows_the_options_of_the_method_that_is_asked_for(desk: Desk, name: str) -> None:
    needed = ("photo.jpg", "--out", "x") if name == "scripts.segment" else ()
    plain, maskclip, clip = (
        desk.command(name, *needed, *more, "--help").out
        for more in ((), ("--method", "maskclip"), ("--labels", "clip"))
    )
    assert "--box_threshold" in plain and "--key_smoothing" not in plain
    assert "--box_threshold" not in maskclip and "--key_smoothing" in maskclip and "--smoothing_norm" in maskclip
    assert "--tag_votes" in clip and ("--tag_votes" in plain) == (name == "scripts.segment")


def test_one_photo(desk: Desk, quick_crf: None) -> None:
    ended = desk.command(
        "scripts.segment", desk.image("a"), "--labels", "dog", "person", "--model", desk.weights, "--device", "cpu",
        "--out", "results", "--method", "maskclip", *FEW,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert Image.open(next(Path("results").glob("*mask*.png"))).size == (33, 24)
