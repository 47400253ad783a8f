"""The parts of a golden folder of CLIP-ES and MaskCLIP's pip package."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import eval_cam
import eval_cam_with_crf
import generate_cams
import maskclip
from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from benchmarks.toyworld import run_stage
from clip.image import prepare_image
from clip.load import load_clip
from clip.text import encode_prompts, fill_template
from dataset.mask_png import read_mask
from pipeline.files.cam_file import load_cams
from pipeline.steps.tensors import to_numpy
from voc12.spec import SPEC

CAM_TYPES = ("highres", "attn_highres")


def data_of(place: Place) -> list[str]:
    """The options that name the photos."""
    images, split = place.photos / "JPEGImages", place.folder / "split.txt"
    return ["--dataset", "voc12", "--img_root", str(images), "--split_file", str(split), "--quiet"]


def text_rows(place: Place) -> Iterator[Row]:
    clip, wanted, distances = load_clip(str(place.clip)), np.load(place.folder / "text.npz"), Distances()
    background = [(prompt,) for prompt in SPEC.background_prompts]
    for groups, name in ((SPEC.prompts, "foreground"), (background, "background")):
        distances.add(encode_prompts(clip, fill_template(SPEC.template, groups)), wanted[name])
    yield distances.row("text embeddings", 1e-4)


def map_rows(place: Place) -> Iterator[Row]:
    """Maps and classes by generate_cams.py; float16 storage alone is 5e-4."""
    keys, distances = Unequal(), {cam_type: Distances() for cam_type in CAM_TYPES}
    with tempfile.TemporaryDirectory() as folder:
        options = ["--model", str(place.clip), "--device", "cpu", "--cam_out_dir", folder]
        run_stage(generate_cams.main, [*data_of(place), *options])
        for image_id in place.split():
            wanted = np.load(place.folder / "cams" / f"{image_id}.npz")
            for cam_type, apart in distances.items():
                found, maps = load_cams(Path(folder, f"{image_id}.npz"), cam_type, len(SPEC.classes))
                apart.add(maps, wanted[cam_type])
            keys.add(found, wanted["keys"])
    yield keys.row("classes of the images", 0)
    yield distances["highres"].row("CAMs", 1e-3)
    yield distances["attn_highres"].row("refined maps", 1e-3)


def mask_rows(place: Place) -> Iterator[Row]:
    """Labels and masks by eval_cam_with_crf.py from the golden maps."""
    for name, confidence in (("labels", "0"), ("masks", "0.95")):
        unequal = Unequal()
        with tempfile.TemporaryDirectory() as folder:
            options = ["--crf_image", "reference", "--confidence", confidence, "--device", "cpu"]
            places = ["--cam_out_dir", str(place.folder / "cams"), "--pseudo_mask_save_path", folder]
            run_stage(eval_cam_with_crf.main, [*data_of(place), *places, *options])
            for image_id in place.split():
                wanted = np.array(Image.open(place.folder / name / f"{image_id}.png"))
                unequal.add(read_mask(Path(folder, f"{image_id}.png")), wanted)
        yield unequal.row(f"{name} after the CRF", 1e-4)


def score_rows(place: Place) -> Iterator[Row]:
    """Scores of the golden maps (background in float16, as the reference) and of the golden labels."""
    wanted = json.loads((place.folder / "eval.json").read_text(encoding="utf-8"))
    for name, allowed in (("highres", 1e-6), ("attn_highres", 1e-6), ("crf", 1e-6)):
        kind = ["--cam_type", "png"] if name == "crf" else ["--cam_type", name, "--bg_precision", "float16"]
        found, expected = scores_by_command(place, "labels" if name == "crf" else "cams", kind), wanted[name]
        distances = Distances()
        classes = [found["classes"][SPEC.label_names[int(label)]] for label in expected["class_IoU"]]
        distances.add(np.array(classes, np.float64), list(expected["class_IoU"].values()))
        ours = [found["miou"], found["pixel_accuracy"], found["mean_accuracy"]]
        distances.add(ours, [expected[key] for key in ("best_mIoU", "pixel_accuracy", "mean_accuracy")])
        shown = sum(iou is not None for iou in found["classes"].values())
        distances.add([shown], [len(expected["class_IoU"])])
        for key, value in expected.items():
            if key.startswith("alpha_"):
                distances.add([found["background"]["miou_by_value"][key.removeprefix("alpha_")]], [value])
        yield distances.row(f"scores, {name}", allowed)


def scores_by_command(place: Place, maps: str, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "scores.json")
        truth = ["--gt_root", str(place.photos / "SegmentationClass"), "--json", str(report)]
        run_stage(eval_cam.main, [*data_of(place), "--cam_out_dir", str(place.folder / maps), *truth, *options])
        return json.loads(report.read_text(encoding="utf-8"))


def maskclip_rows(place: Place) -> Iterator[Row]:
    """The pip package's Python face, at the resolution that the stored logits show."""
    text = np.load(place.folder / "maskclip_v/text.npz")
    model, _ = maskclip.load(str(place.clip), device="cpu")
    embeddings = maskclip.generate_text_embeddings(model, text["names"].tolist(), "maskclip")
    apart, logits = Distances(), Distances()
    apart.add(embeddings, text["embeddings"])
    model.initialize_text_embeddings(embeddings)
    for path in sorted((place.folder / "maskclip_v").glob("*.npz")):
        if path.stem != "text":
            wanted = np.load(path)["logits"]
            inputs = resized_either_way(place.photo(path.stem), wanted.shape[-1] * model.clip.patch_size)
            found = [to_numpy(model(prepare_image(photo, 1)[None])[0]) for photo in inputs]
            logits.add(min(found, key=lambda one: float(np.abs(one - wanted).max())), wanted, relative=True)
    yield apart.row("MaskCLIP package: text", 1e-5)
    yield logits.row("MaskCLIP package: logits", 1e-4)


def resized_either_way(path: Path, side: int) -> list[Image.Image]:
    """A photo resized to (side, side) along its rows first, and along its columns first.

    Pillow rounds to bytes in between, which moves the logits by up to 1 % of their range: Pillow 12 takes the rows
    first, Pillow 13 (which needs Python 3.11) whichever is less work.
    """
    with Image.open(path) as image:
        photo = image.convert("RGB")
    turned = photo.transpose(Image.Transpose.TRANSPOSE).resize((side, side), Image.Resampling.BICUBIC)
    return [photo.resize((side, side), Image.Resampling.BICUBIC), turned.transpose(Image.Transpose.TRANSPOSE)]


PARTS: Parts = {
    "text": Part(("text.npz",), text_rows),
    "maps": Part(("cams/*.npz",), map_rows),
    "masks": Part(("labels/*.png", "masks/*.png"), mask_rows),
    "scores": Part(("eval.json",), score_rows),
    "maskclip": Part(("maskclip_v/*.npz",), maskclip_rows),
}
