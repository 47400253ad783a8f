"""Text, windows, and whole photos with their scores, by a golden SegCLIP."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

import eval_cam
import generate_cams
from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from benchmarks.toyworld import run_stage
from cli.datasets import spec_of
from clip.image import MEAN, STD, prepare_image
from clip.text import encode_prompts, tokenize
from common.images import read_image
from dataset.mask_png import read_mask
from dataset.spec import DatasetSpec
from pipeline.files.cam_file import read_maps
from pipeline.methods.segclip import METHOD, TOP_CLASSES, SegClipSettings
from pipeline.steps.kinds import to_probabilities
from pipeline.steps.masks import contest, labels_of
from pipeline.steps.windows import window_places
from segclip.forward import gather, group_features, patch_tokens
from segclip.load import GroupingClip, load_segclip
from segclip.maps import affinities, background_of, look_at_windows, scores_of

SETTINGS = {"voc": "voc12", "context": "context60", "coco": "cocoobject", "voc_nobg": "voc20"}
TEMPLATES = {"voc": "simple", "context": "simple", "coco": "simple", "voc_subset": "subset", "voc_full": "full"}
CROP_VALUES = {  # what a crop holds, and how far ours may be
    **dict.fromkeys(("patch_tokens", "centres", "group_inner", "group_tokens", "image_feature"), 1e-4),
    "attn": 1e-3,
    **dict.fromkeys(("soft", "image_probs", "group_probs", "affinity", "bg_threshold"), 1e-4),
}
LIMIT, FEW_PIXELS = 1e-3, 1e-3  # a pixel on the border of two groups may be of the other one


def load(place: Place) -> GroupingClip:
    return load_segclip(place.folder / "segclip.pt")


def texts_of(clip: GroupingClip, spec: DatasetSpec, templates: str = "simple") -> torch.Tensor:
    """The embeddings (K, E) that the method asks for."""
    words = METHOD.words(spec, SegClipSettings(templates=templates))
    return encode_prompts(clip, words.sentences(), unit=words.unit)


def text_rows(place: Place) -> Iterator[Row]:
    clip, wanted = load(place), np.load(place.folder / "text.npz")
    names, tokens, apart = Unequal(), Unequal(), Distances()
    for name, templates in TEMPLATES.items():
        spec = spec_of(SETTINGS[name.split("_")[0]])
        apart.add(texts_of(clip, spec, templates), wanted[name])
        if templates == "simple":
            spoken = METHOD.words(spec, SegClipSettings()).names
            names.add(["background", *(words[0] for words in spoken)], wanted[f"{name}_classes"])
    sentences = METHOD.words(spec_of("voc12"), SegClipSettings(templates="simple")).sentences()
    tokens.add(tokenize(clip, [group[0] for group in sentences]), wanted["voc_tokens"])
    yield names.row("class names", 0)
    yield tokens.row("tokens", 0)
    yield apart.row("text embeddings", 1e-5)


@torch.no_grad()
def crop_rows(place: Place) -> Iterator[Row]:
    """One window of each photo, step by step."""
    clip, spec = load(place), spec_of("voc12")
    texts, threshold = texts_of(clip, spec), spec.segclip_threshold
    equal = {name: Unequal() for name in ("origin", "rgb", "hard", "group_map", "top5")}
    apart = {name: Distances() for name in CROP_VALUES}
    far, side = Far(), clip.visual.image_size
    for path in sorted((place.folder / "crops").glob("*.npz")):
        wanted = np.load(path)
        image = prepared(clip, place.photo(path.stem))
        top, left, bottom, right = window_places((image.shape[1], image.shape[2]), side, side)[-1]
        window = image[None, :, top:bottom, left:right]
        equal["origin"].add([top, left, *image.shape[1:]], [*wanted["origin"], *wanted["resized"]])
        equal["rgb"].add(as_bytes(window[0]), wanted["rgb"])
        found = values_of(clip, window, texts, threshold)
        for name, distances in apart.items():
            distances.add(found[name][0], wanted[name])
        for name in ("hard", "group_map", "top5"):
            equal[name].add(found[name][0], wanted[name])
        far.add(found["scores"][0], wanted["scores"])
    for name, unequal in equal.items():
        yield unequal.row(f"crop: {name}", 0)
    for name, distances in apart.items():
        yield distances.row(f"crop: {name}", CROP_VALUES[name])
    yield far.row("crop: scores")


def values_of(clip: GroupingClip, window: Tensor, texts: Tensor, threshold: float) -> Mapping[str, Tensor]:
    """What a golden crop holds, of a batch of one window."""
    tokens = patch_tokens(clip.visual, window)
    gathered = gather(clip.visual.transformer.semantic_layer2, tokens)
    image_feature, group_tokens = group_features(clip.visual, gathered.tokens)
    seen = look_at_windows(clip, window, texts)
    affinity = affinities(seen, range(len(texts)), TOP_CLASSES)
    background = background_of(affinity, threshold)[0][seen.groups[0]]
    scores = scores_of(affinity, seen.groups, threshold)[0]
    return {
        "patch_tokens": tokens,
        "centres": gathered.centres,
        "attn": gathered.logits,
        "soft": gathered.soft,
        "hard": gathered.hard,
        "group_inner": gathered.tokens,
        "group_tokens": group_tokens,
        "image_feature": image_feature,
        "image_probs": seen.image_logits.softmax(dim=-1),
        "group_probs": seen.group_logits.softmax(dim=-1),
        "affinity": affinity,
        "bg_threshold": affinity.amax().clamp(max=threshold)[None],
        "top5": seen.image_logits.topk(min(TOP_CLASSES, len(texts))).indices,
        "group_map": seen.groups,
        "scores": torch.cat([background[None], scores + background])[None],
    }


def prepared(clip: GroupingClip, photo: Path) -> Tensor:
    """(3, H, W) as the model gets it."""
    return prepare_image(read_image(photo), clip.patch_size, None, METHOD.preparation(clip, None))


def as_bytes(image: Tensor) -> np.ndarray:
    """A normalised image (3, H, W) back to (H, W, 3) uint8."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((image * std + mean) * 255).round().byte().permute(1, 2, 0).numpy()


class Far:
    """The share of pixels of which some value differs by more than LIMIT, over many arrays (C, H, W): one row."""

    def __init__(self) -> None:
        self.compared, self.far = 0, 0

    def add(self, ours: npt.ArrayLike, theirs: npt.ArrayLike) -> None:
        found, wanted = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        pixels = wanted[0].size
        self.compared += pixels
        same = found.shape == wanted.shape
        self.far += int((~(np.abs(found - wanted) <= LIMIT)).any(axis=0).sum()) if same else pixels

    def row(self, part: str) -> Row:
        return Row(f"{part}, pixels off by {LIMIT:g}", self.compared, self.far / max(self.compared, 1), FEW_PIXELS)


def photo_rows(place: Place, setting: str) -> Iterator[Row]:
    """Whole photos by generate_cams.py: the mean of the windows, class scores at full size, labels."""
    spec, folder = spec_of(SETTINGS[setting]), place.folder / "eval" / setting
    labels, windows, full = Unequal(), Far(), Far()
    with tempfile.TemporaryDirectory() as cams:
        run_stage(generate_cams.main, [*data_of(place, spec), "--cam_out_dir", cams, *model_of(place)])
        for image_id in place.split():
            stored = read_maps(Path(cams, f"{image_id}.npz"), "attn_highres", len(spec.classes))
            maps = stored.resized(stored.size)
            found = labels_of(contest(maps, stored.kind, spec.has_background), stored.keys, spec.has_background)
            labels.add(found, read_mask(folder / f"{image_id}.png"))
            path = folder / f"{image_id}.npz"
            if path.is_file():
                wanted = np.load(path)
                mean = wanted["windows"]
                assert isinstance(stored.maps, np.ndarray)
                windows.add(stored.maps, mean[1:] - mean[:1] if spec.has_background else mean)
                if "scores" in wanted:
                    full.add(to_probabilities(maps, stored.kind, spec.has_background), wanted["scores"])
    yield labels.row(f"{setting}: labels", FEW_PIXELS)
    for name, far in (("windows", windows), ("scores", full)):
        if far.compared:
            yield far.row(f"{setting}: {name}")


def image_rows(place: Place) -> Iterator[Row]:
    """The resized photos."""
    clip, unequal = load(place), Unequal()
    for path in sorted((place.folder / "eval/images").glob("*.png")):
        with Image.open(path) as image:
            unequal.add(as_bytes(prepared(clip, place.photo(path.stem))), np.array(image.convert("RGB")))
    yield unequal.row("resized photos", 0)


def score_rows(place: Place) -> Iterator[Row]:
    """generate_cams.py and eval_cam.py against the masks of the photos, by mmsegmentation's rule."""
    wanted = json.loads((place.folder / "eval/scores.json").read_text(encoding="utf-8"))
    spec = spec_of(SETTINGS[wanted["setting"]])
    with tempfile.TemporaryDirectory() as folder:
        cams, report = ["--cam_out_dir", folder], Path(folder, "scores.json")
        threshold = ["--background_threshold", str(wanted["bg_threshold"])]
        run_stage(generate_cams.main, [*data_of(place, spec), *cams, *model_of(place), *threshold])
        truth = ["--gt_root", str(place.photos / "SegmentationClass"), "--absent", "union", "--json", str(report)]
        run_stage(eval_cam.main, [*data_of(place, spec), *cams, *truth])
        found = json.loads(report.read_text(encoding="utf-8"))
    apart = Distances()
    apart.add(
        [found["pixel_accuracy"], found["mean_accuracy"], found["miou"]], [wanted[n] for n in ("aAcc", "mAcc", "mIoU")]
    )
    apart.add([found["images"]], [wanted["images"]])
    apart.add(np.array(list(found["classes"].values()), np.float64), np.array(of_classes(wanted["IoU"]), np.float64))
    yield apart.row("scores of the labels", 1e-3)


def of_classes(scores: Any) -> list[Any]:
    """Scores in the order of the classes, from a list or by name."""
    return list(scores.values() if isinstance(scores, dict) else scores)


def data_of(place: Place, spec: DatasetSpec) -> list[str]:
    """The options that name the photos, all of whose classes are asked for."""
    images, split = place.photos / "JPEGImages", place.folder / "split.txt"
    return [
        *("--dataset", spec.name, "--img_root", str(images), "--split_file", str(split), "--labels", "all"),
        "--quiet",
    ]


def model_of(place: Place) -> list[str]:
    return ["--method", "segclip", "--model", str(place.folder / "segclip.pt"), "--device", "cpu"]


PARTS: Parts = {
    "text": Part(("text.npz",), text_rows),
    "crops": Part(("crops/*.npz",), crop_rows),
    "images": Part(("eval/images/*.png",), image_rows),
    **{
        f"eval {setting}": Part(
            (f"eval/{setting}/*.png", f"eval/{setting}/*.npz"), partial(photo_rows, setting=setting)
        )
        for setting in SETTINGS
    },
    "scores": Part(("eval/scores.json",), score_rows),
}
