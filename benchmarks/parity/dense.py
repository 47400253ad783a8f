"""The parts of a golden folder of SCLIP, NACLIP, ClearCLIP, ResCLIP and SC-CLIP.

Two forms: a method's folder with settings.json, and one with a folder for each set of classes, with config.json.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from clip.image import MEAN, STD, Preparation, normalised, prepare_image
from clip.load import Clip, load_clip
from clip.templates import IMAGENET80, Words
from clip.text import encode_prompts
from coco14.cocoobject import SPEC as COCO_OBJECT
from common.images import read_image
from pipeline.methods import clearclip, naclip, resclip, sc_clip, sclip
from pipeline.methods.method import CamSettings
from pipeline.methods.windowed import LONGEST, centred, look, merged_cosines
from pipeline.steps.dense_attention import output_by, run_blocks, to_features
from pipeline.steps.dense_classes import class_values, labels_above, without_small_classes
from pipeline.steps.pamr import pamr
from pipeline.steps.residual_attention import Mixing, first_labels, label_map, residual_output
from pipeline.steps.tensors import to_numpy
from voc12.context60 import SPEC as CONTEXT60
from voc12.spec import SPEC as VOC21
from voc12.voc20 import SPEC as VOC20

METHODS = {"sclip": sclip, "clearclip": clearclip, "naclip": naclip, "resclip": resclip, "scclip": sc_clip}
DEEP = ("resclip", "scclip")  # stored for twelve blocks
RENORMALISED = ("naclip", "resclip")  # their stored probabilities are divided by their sum
SPECS = {"voc21": VOC21, "voc20": VOC20, "context60": CONTEXT60, "coco_object": COCO_OBJECT}
WINDOWS = {"square": (slice(0, 224), slice(0, 224)), "tall": (slice(100, 330), slice(30, 200))}
ATTENTIONS = {
    "sclip": {"csa": "qq+kk", "plain": "qk", "vanilla": "qk"},
    "clearclip": {"vanilla": "qk", "MaskCLIP": "identity", "SCLIP": "qq+kk", "ClearCLIP": "qq"},
    "naclip": {"naclip": "kk+window", "nonly": "window", "kk": "kk", "vanilla": "qk", "csa": "qq+kk"},
    "resclip": {"resclip": "kk+window", "clearclip": "qq", "vanilla": "qk", "sclip": "qq+kk"},
}


@cache
def model(path: Path, deep: bool) -> Clip:
    """The CLIP; `deep`: with twelve image blocks made of its own, the outputs of which count an eighth."""
    clip = load_clip(str(path))
    if not deep:
        return clip
    visual, blocks = copy.deepcopy(clip.visual), []
    own = clip.visual.transformer.resblocks
    for index in range(12):
        block = copy.deepcopy(own[len(own) - 1 - index % len(own)])
        for layer in (block.attn.out_proj, block.mlp.c_proj):
            layer.weight.data /= 8
            layer.bias.data /= 8
        blocks.append(block)
    visual.transformer.resblocks = torch.nn.ModuleList(blocks)
    twin = copy.copy(clip.model)
    twin.visual = visual
    return replace(clip, model=twin)


def settings_of(method: str, config: dict[str, Any], short_side: int) -> Any:
    """The product's settings for a stored configuration, with the slips of the public code."""
    defaults = METHODS[method].PUBLISHED[""]
    values = {
        "short_side": short_side,
        "window": config.get("slide_crop", defaults.window),
        "stride": config.get("slide_stride", defaults.stride),
        "logit_scale": float(config.get("logit_scale", defaults.logit_scale)),
        "prob_threshold": float(config.get("prob_thd") or 0),
        "area_threshold": float(config.get("area_thd") or 0),
        "pamr": config.get("pamr_steps", defaults.pamr) or 0,
        "published_slips": True,
    }
    if method == "resclip":
        rcs, sfr = tuple(config["attn_rcs_weights"]), tuple(config["attn_sfr_weights"])
        values |= {"first_threshold": config["temp_thd"], "rcs": rcs, "sfr": sfr}
    return replace(METHODS[method].METHOD.settings(), **values)


def pixels(rgb: np.ndarray) -> Tensor:
    return normalised(rgb)[None]


@dataclass(frozen=True)
class Case:
    """One set of classes of one method, in either form.

    rgb  the scaled photo of an id, (H, W, 3) uint8
    """

    method: str
    name: str
    folder: Path
    config: dict[str, Any]
    short_side: int
    text: Mapping[str, np.ndarray]
    early: bool
    place: Place

    @property
    def options(self) -> Any:
        return settings_of(self.method, self.config, self.short_side)

    def clip(self) -> Clip:
        return model(self.place.clip, self.method in DEEP)

    def ids(self) -> list[str]:
        start = f"{self.name}_" if self.early else ""
        names = [path.stem.removeprefix(start) for path in self.folder.glob(f"{start}*.npz") if path.stem != "text"]
        return sorted(name for name in names if self.place.photo(name).is_file())

    def stored(self, image_id: str) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """The arrays and the label map of a photo."""
        path = self.folder / f"{f'{self.name}_' if self.early else ''}{image_id}.npz"
        return np.load(path), np.array(Image.open(path.with_suffix(".png")))

    def rgb(self, image_id: str) -> np.ndarray:
        resized = full_folder(self.place) / f"resized/{self.short_side}/{image_id}.png"
        return np.array(Image.open(resized)) if resized.is_file() else scaled(self.place, image_id, self.short_side)


def full_folder(place: Place) -> Path:
    """Where the folders with a set of classes each are."""
    return place.folder / "full" if (place.folder / "full").is_dir() else place.folder


def scaled(place: Place, image_id: str, short_side: int) -> np.ndarray:
    """A photo at the product's exact size, (H, W, 3) uint8: its preparation, with the normalisation undone."""
    preparation = Preparation("exact", (LONGEST, short_side))
    tensor = prepare_image(read_image(place.photo(image_id)), 16, None, preparation)
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    return np.rint((to_numpy(tensor) * std + mean) * 255).astype(np.uint8).transpose(1, 2, 0)


def cases(place: Place) -> Iterator[Case]:
    for method in METHODS:
        for settings in sorted(place.folder.glob(f"{method}/settings.json")):
            text = np.load(settings.with_name("text.npz"))
            for name, config in json.loads(settings.read_text(encoding="utf-8")).items():
                words = name.removesuffix("_no_pamr")
                parts = {
                    "names": text[f"{words}_words"],
                    "query_index": text[f"{words}_index"],
                    "features": text[words],
                }
                yield Case(method, name, settings.parent, config, config["short_side"], parts, True, place)
        for path in sorted(full_folder(place).glob(f"{method}/*/config.json")):
            config = json.loads(path.read_text(encoding="utf-8"))
            text = np.load(path.with_name("text.npz"))
            yield Case(method, path.parent.name, path.parent, config, config["resize"][1], text, False, place)


def text_rows(place: Place) -> Iterator[Row]:
    """Embeddings of the stored words, and the product's own word lists."""
    clip, apart, unequal, everything = model(place.clip, False), Distances(), Unequal(), list(cases(place))
    words = sorted({str(name) for case in everything for name in case.text["names"]})
    encoded = encode_prompts(clip, Words([(word,) for word in words], IMAGENET80).sentences())
    for case in everything:
        apart.add(encoded[[words.index(str(name)) for name in case.text["names"]]], case.text["features"])
        if case.name in SPECS:
            theirs = [f"{index} {name}".strip() for index, name in zip(case.text["query_index"], case.text["names"])]
            unequal.add(np.array(product_words(case)), np.array(theirs))
    yield apart.row("text embeddings", 1e-5)
    yield unequal.row("word lists", 0)


def product_words(case: Case) -> list[str]:
    """The index of the class and the word, background first."""
    method, spec = METHODS[case.method].METHOD, SPECS[case.name]
    options = method.complete(case.clip(), spec, method.settings())
    words = method.words(spec, options)
    names = [*words.names[len(spec.classes) :], *words.names[: len(spec.classes)]]
    background, count = int(spec.has_background), len(words.names) - len(spec.classes)
    owners = [0] * count + [index + background for index in range(len(spec.classes))]
    return [f"{owner} {name}" for owner, group in zip(owners, names) for name in group]


def resize_rows(place: Place) -> Iterator[Row]:
    unequal = Unequal()
    for path in sorted(full_folder(place).glob("resized/*/*.png")):
        unequal.add(scaled(place, path.stem, int(path.parent.name)), np.array(Image.open(path)))
    yield unequal.row("scaled photos", 1e-3)


def map_rows(place: Place) -> Iterator[Row]:
    """From the scaled photo to the labels, a few rows a method."""
    for method in METHODS:
        found = [case for case in cases(place) if case.method == method]
        if found:
            yield from method_rows(method, found)


def method_rows(method: str, found: Sequence[Case]) -> Iterator[Row]:
    features, cosines, values, labels = Distances(), Distances(), Distances(), Unequal()
    for case in found:
        for image_id in case.ids():
            arrays, label_map_stored = case.stored(image_id)
            compare_photo(case, image_id, arrays, label_map_stored, (features, cosines, values, labels))
    if features.compared:
        yield features.row(f"{method}: features of windows", 1e-3)
    yield cosines.row(f"{method}: cosines", 5e-4)
    yield values.row(f"{method}: probabilities", 1e-3)
    yield labels.row(f"{method}: labels", 1e-4)


def compare_photo(
    case: Case,
    image_id: str,
    arrays: Mapping[str, np.ndarray],
    labels_stored: np.ndarray,
    results: tuple[Distances, Distances, Distances, Unequal],
) -> None:
    features, cosines, values, labels = results
    clip, options, rgb = case.clip(), case.options, case.rgb(image_id)
    image, text = pixels(rgb), torch.from_numpy(np.array(case.text["features"]))
    owners, output = [int(owner) for owner in case.text["query_index"]], METHODS[case.method].output
    settings = CamSettings(method=case.method, options=options)
    merged = merged_cosines(clip, output, image, text, owners, settings)
    size = labels_stored.shape
    at_full_size = F.interpolate(merged, size=size, mode="bilinear", align_corners=False)
    if case.early:
        stored = merged if tuple(arrays["size"]) == tuple(merged.shape[-2:]) else at_full_size
        cosines.add(stored[0, :, ::8, ::8], arrays["logits_every8"])
    elif "merged" in arrays:
        cosines.add(merged[0, :, 8::16, 8::16], arrays["merged"])
    if options.pamr:
        large = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        at_full_size = pamr(at_full_size, large, options.pamr)
    if not case.early:
        cosines.add(at_full_size[0, :, 8::16, 8::16], arrays["logits"])
    probabilities = class_values(at_full_size[0], owners, options.logit_scale)
    if options.area_threshold:
        probabilities = without_small_classes(probabilities, options.area_threshold)
    labels.add(labels_above(probabilities, options.prob_threshold), labels_stored)
    if case.method in RENORMALISED:
        probabilities = probabilities / probabilities.sum(dim=0)
    every = slice(None, None, 8) if case.early else slice(8, None, 16)
    values.add(probabilities[:, every, every], arrays["probs_every8" if case.early else "probs"])
    if "features" in arrays:
        top, left, bottom, right = (int(side) for side in arrays["window"])
        window = image[..., top:bottom, left:right]
        above, before, filled = centred(window, clip.patch_size) if options.FILLED else (0, 0, window)
        if "pad_top_left" in arrays:
            features.add([above, before], arrays["pad_top_left"])
        tokens, grid = output(clip, look(clip, filled, text, owners, settings), options)
        features.add(to_features(clip.visual, tokens)[0].unflatten(0, grid), arrays["features"], relative=True)
        if "tokens" in arrays:
            features.add(tokens[0].unflatten(0, grid), arrays["tokens"], relative=True)


def window_rows(place: Place) -> Iterator[Row]:
    """Every attention that the public codes offer, on one window; and PAMR."""
    clip = model(place.clip, False)
    for path in sorted(place.folder.glob("*/window.npz")):
        method, apart = path.parent.name, Distances()
        arrays = np.load(path)
        image = torch.from_numpy(arrays["input"])[None]
        for key in arrays.files:
            if key == "input" or key.startswith("pamr"):
                continue
            attention, residual = switches(method, key)
            window = image[..., :160, :224] if key.endswith("160x224") else image
            tokens = run_blocks(clip.visual, window, "bicubic-dino")
            found = to_features(clip.visual, output_by(clip.visual, tokens, attention, residual))
            wanted = arrays[key][-found.shape[1] :]  # without the class token
            apart.add(found[0] / wanted.std(), wanted / wanted.std())
        yield apart.row(f"{method}: attentions on a window", 1e-4)
        if "pamr_in" in arrays:
            scores, around = (torch.from_numpy(arrays[key])[None] for key in ("pamr_in", "pamr_image"))
            refined = Distances()
            refined.add(pamr(scores, around)[0], arrays["pamr_out"])
            yield refined.row("PAMR", 1e-5)


def switches(method: str, key: str) -> tuple[str, bool]:
    """The attention, and whether residual connection and MLP stay, by a key such as `reduced_naclip_160x224`."""
    words = key.removesuffix("_160x224")
    if method == "sclip":
        return ATTENTIONS[method][words], True
    if method == "clearclip":
        name, _, rest = words.partition("_")
        return ATTENTIONS[method][name], rest == "with_residual"
    kind, _, name = words.partition("_")
    return ATTENTIONS[method][name], kind == "vanilla"


def mode_rows(place: Place) -> Iterator[Row]:
    """Every switch of the public codes, on a square and on a tall window."""
    for path in sorted(full_folder(place).glob("*/modes.npz")):
        method, apart = path.parent.name, Distances()
        case = next(case for case in cases(place) if case.method == method and not case.early and case.name == "voc20")
        rgb = Image.open(full_folder(place) / f"resized/336/{place_ids(place)[0]}.png")
        image = pixels(np.array(rgb))
        arrays = np.load(path)
        for key in arrays.files:
            mode, window, _ = key.split("|")
            rows, columns = WINDOWS[window]
            apart.add(features_of_mode(case, mode, image[..., rows, columns]), arrays[key], relative=True)
        yield apart.row(f"{method}: every switch", 1e-3)


def place_ids(place: Place) -> list[str]:
    return (full_folder(place) / "split.txt").read_text(encoding="utf-8").split()


def features_of_mode(case: Case, mode: str, image: Tensor) -> Tensor:
    """(h, w, E) of a window, for a mode such as `reduced+naclip+std=5`."""
    clip, options, words = case.clip(), case.options, mode.split("+")
    visual, text = clip.visual, torch.from_numpy(np.array(case.text["features"]))
    owners = [int(owner) for owner in case.text["query_index"]]
    if case.method == "scclip":
        windows = look(clip, image, text, owners, CamSettings(options=options))
        output, grid = METHODS["scclip"].output(clip, windows, options)
        return to_features(visual, output)[0].unflatten(0, grid)
    if case.method == "clearclip":  # stored for windows cut to whole patches
        image = image[..., : image.shape[-2] // 16 * 16, : image.shape[-1] // 16 * 16]
    tokens = run_blocks(visual, image, "bicubic-dino")
    if case.method != "resclip":
        output = output_by(visual, tokens, *attention_of_mode(case.method, words))
        return to_features(visual, output)[0].unflatten(0, tokens.grid)
    attention, residual = ATTENTIONS["resclip"][words[1]], words[0] == "w_resi"
    mixing = Mixing(options.rcs, options.sfr)
    first = to_features(visual, residual_output(visual, tokens, mixing, None, attention, residual))
    scale, threshold = options.logit_scale, options.first_threshold
    labels = first_labels(first, text, range(len(text)), image, tokens.grid, clip.patch_size, scale, threshold)
    same = label_map(labels[0], as_published=True)[None]
    second = residual_output(visual, tokens, mixing, same, attention, residual)
    return to_features(visual, second)[0].unflatten(0, tokens.grid)


def attention_of_mode(method: str, words: Sequence[str]) -> tuple[str, bool, float]:
    """The attention, whether residual connection and MLP stay, and the window's standard deviation."""
    if method == "clearclip":
        return ATTENTIONS[method][words[0]], words[1] == "ignore_residual=False", 5.0
    if method == "sclip":
        return ATTENTIONS[method][words[0]], True, 5.0
    return ATTENTIONS[method][words[1]], words[0] == "vanilla", float(words[2].split("=")[1])


PARTS: Parts = {
    "text": Part(("text.npz",), text_rows),
    "photos": Part(("resized/*/*.png",), resize_rows),
    "windows": Part(("*/window.npz",), window_rows),
    "switches": Part(("*/modes.npz",), mode_rows),
    "maps": Part(("settings.json", "config.json", "*/*.npz", "*/*.png"), map_rows),
}
