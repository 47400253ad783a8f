"""Parts of a golden folder: proposals, CLIP on regions, and what becomes of both."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from clip.learned_prompts import read_learned_prompts
from clip.load import Clip, load_clip
from clip.templates import IMAGENET80, SINGLE, VILD14, Words
from clip.text_cache import cached_words
from common.images import read_image
from pipeline.steps.regions import LabelMap, RegionMaps, Regions, SoftMasks, added
from zsseg.ensemble import ensemble
from zsseg.regions import LOGIT_SCALE, Crops, classify, cut_out, encode_squares, expanded
from zsseg.selective_search import search

TEMPLATES = {"single": SINGLE, "vild14": VILD14, "imagenet80": IMAGENET80, "learned16": ()}
VARIANTS = {  # of the folder's arrays: by the end of their names
    "": Crops(),
    "_zero_fill": Crops(fill="zero"),
    "_expand1.5": Crops(expand=1.5),
    "_matting": Crops(matting=True),
    "_thr0.3": Crops(threshold=0.3),
}
PROMPTED = "vild14"  # what the variants were made with
FEATURES, LOGITS, PROBABILITIES, STORED = 7e-7, 8e-5, 1.2e-5, 2e-3  # the golden files' own spread; of float16
MERGED_LESS = 0.8  # the likeness at which the folder's proposals were made
TIES = 0.01  # share of pixels that ties and the version of scikit-image may change


def searched(place: Place, image_id: str, least: float) -> tuple[np.ndarray, np.ndarray]:
    return search(np.asarray(read_image(place.photo(image_id))), least)


def selective_search(place: Place) -> Iterator[Row]:
    """Label maps before and after merging, with the published likeness."""
    first, last, labels = Unequal(), Unequal(), Unequal()
    meta = json.loads((place.folder / "selective_search/meta.json").read_text(encoding="utf-8"))
    for image_id, facts in meta.items():
        initial, final = searched(place, image_id, 0.65)
        first.add(initial, np.load(place.folder / f"selective_search/{image_id}_initial.npz")["labels"])
        last.add(final, np.load(place.folder / f"selective_search/{image_id}.npy"))
        present, sizes = np.unique(final, return_counts=True)
        labels.add([initial.max() + 1, len(present)], [facts["initial"], facts["final"]])
        labels.add(present, facts["labels"])
        labels.add(np.abs(sizes - facts["sizes"]) <= TIES * final.size, np.ones(len(present)))
    yield first.row("selective search: labels before merging", TIES)
    yield last.row("selective search: labels after merging", TIES)
    yield labels.row("selective search: regions and their sizes", TIES)


def proposals(place: Place) -> Iterator[Row]:
    """The folder's proposals are those of a selective search that merges less; numbered anew, without gaps."""
    unequal = Unequal()
    for path in sorted((place.folder / "proposals").glob("*.npy")):
        ours = LabelMap.of(searched(place, path.stem, MERGED_LESS)[1])
        unequal.add(ours.labels, LabelMap.of(np.load(path, allow_pickle=False)).labels)
    yield unequal.row("proposals: numbers of regions", TIES)


class Classifier:
    """CLIP and its texts for the folder's classes, by the names of the prompts."""

    def __init__(self, place: Place) -> None:
        self.clip: Clip = load_clip(str(place.clip))
        names = json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))["names"]
        learned = read_learned_prompts(place.folder / "prompt/prompt_checkpoint.pth", self.clip)
        self.text = {}
        for name, templates in TEMPLATES.items():
            clip = self.clip if templates else replace(self.clip, learned=learned)
            self.text[name] = cached_words(clip, Words([(name,) for name in names], templates))

    def probabilities(self, features: torch.Tensor, prompt: str) -> np.ndarray:
        text = self.text[prompt]
        return classify(features, text, range(len(text))).numpy()


@cache
def classifier_of(place: Place) -> Classifier:
    return Classifier(place)


class Compared:
    """The rows of what is compared for every photo and variant."""

    def __init__(self) -> None:
        self.valid, self.boxes = Unequal(), Unequal()
        self.crops, self.features, self.logits, self.probabilities = (Distances() for _ in range(4))

    def add(
        self, classifier: Classifier, rgb: np.ndarray, regions: Regions, wanted: Mapping[str, np.ndarray], end: str
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """One variant of one photo: its boxes, squares and features."""
        found = list(cut_out(rgb, regions, VARIANTS[end]))
        squares = torch.stack([square for _, _, square in found])
        features = encode_squares(classifier.clip, squares)
        crops = f"crops_every8_{PROMPTED}{end}"
        if crops in wanted:
            self.crops.add(squares[..., 4::8, 4::8], wanted[crops])
        if f"features_{PROMPTED}{end}" in wanted:
            self.features.add(features, wanted[f"features_{PROMPTED}{end}"])
        for prompt in TEMPLATES if not end else (PROMPTED,):
            self.probabilities.add(classifier.probabilities(features, prompt), wanted[f"probs_{prompt}{end}"])
        return np.array([box for _, box, _ in found]), squares, features

    def rows(self, what: str) -> Iterator[Row]:
        yield self.valid.row(f"{what}: which have a pixel", 0.0)
        yield self.boxes.row(f"{what}: boxes", 0.0)
        yield self.crops.row(f"{what}: squares, float16", STORED)
        yield self.features.row(f"{what}: features", FEATURES)
        if self.logits.compared:
            yield self.logits.row(f"{what}: logits", LOGITS)
        yield self.probabilities.row(f"{what}: probabilities", PROBABILITIES)


def proposals_of(place: Place, image_id: str) -> tuple[np.ndarray, LabelMap]:
    values = np.load(place.folder / f"proposals/{image_id}.npy", allow_pickle=False)
    return values, LabelMap.of(values)


def regions(place: Place) -> Iterator[Row]:
    """CLIP on the regions of label maps, in all variants."""
    classifier, compared, whole = classifier_of(place), Compared(), Distances()
    for path in sorted((place.folder / "regions").glob("*.npz")):
        if path.stem.endswith("_crops"):
            continue
        wanted, rgb = np.load(path), np.asarray(read_image(place.photo(path.stem)))
        values, labels = proposals_of(place, path.stem)
        present = np.unique(values)
        compared.valid.add(present, wanted["region_labels"])
        compared.valid.add(np.isin(np.arange(values.max() + 1), present), wanted["valid"])
        for end in ("", "_zero_fill", "_expand1.5"):
            boxes, squares, features = compared.add(classifier, rgb, labels, wanted, end)
            if not end:
                compared.boxes.add(boxes, wanted["boxes_xyxy"])
                larger = [expanded(tuple(box), 1.5) for box in boxes.tolist()]
                compared.boxes.add(larger, wanted["expanded_xyxy_before_clip"])
                logits = LOGIT_SCALE * features @ classifier.text[PROMPTED].T
                compared.logits.add(logits, wanted[f"logits_{PROMPTED}"])
                if (crops := path.with_name(f"{path.stem}_crops.npz")).is_file():
                    stored = np.load(crops)
                    whole.add(squares[torch.from_numpy(stored["index"])], stored["crops"])
    yield from compared.rows("regions")
    yield whole.row("regions: whole squares, float16", STORED)


def float_masks(place: Place) -> Iterator[Row]:
    """The same on soft masks, with other thresholds and with matting too."""
    classifier, compared = classifier_of(place), Compared()
    for path in sorted((place.folder / "float_masks").glob("*.npz")):
        wanted, rgb = np.load(path), np.asarray(read_image(place.photo(path.stem)))
        size, padded = (tuple(wanted[name].tolist()) for name in ("image_hw", "padded_hw"))
        masks = SoftMasks(size, wanted["mask_logits_stride4"].astype(np.float32), padded)
        areas = [(masks.planes(slice(index, index + 1)) > 0.5).sum() for index in range(len(masks))]
        compared.valid.add(areas, wanted["area_above_half"])
        for end, crops in VARIANTS.items():
            boxes, _, _ = compared.add(classifier, rgb, masks, wanted, end)
            numbers = [number for number, _, _ in masks.each(crops.threshold)]
            for prompt in TEMPLATES if not end else (PROMPTED,):
                compared.valid.add(np.isin(np.arange(len(masks)), numbers), wanted[f"valid_{prompt}{end}"])
                if crops.expand == 1:
                    compared.boxes.add(boxes, wanted[f"boxes_{prompt}{end}"])
    yield from compared.rows("soft masks")


def scored(classifier: Classifier, rgb: np.ndarray, labels: LabelMap, prompt: str) -> np.ndarray:
    """(K, h, w): the probabilities of the region of each pixel."""
    found = list(cut_out(rgb, labels, Crops()))
    features = encode_squares(classifier.clip, torch.stack([square for _, _, square in found]))
    scores = np.zeros((len(labels), len(classifier.text[prompt])), np.float32)
    scores[[number for number, _, _ in found]] = classifier.probabilities(features, prompt)
    return RegionMaps(labels, scores).resized(labels.size)


def proposal_model(place: Place) -> Iterator[Row]:
    """Label maps and CLIP alone, to the best class of each pixel; also where the photo was resized and back."""
    classifier, scores, sums, labels = classifier_of(place), Distances(), Distances(), Unequal()
    folder, shorter = place.folder / "proposal_model", Unequal()
    for path in sorted(folder.glob("*.npz")):
        image_id = next(image_id for image_id in place.split() if path.stem.startswith(image_id))
        resized = path.stem.removeprefix(image_id).replace("_from", "_resized")
        wanted, (values, regions_there) = np.load(path), proposals_of(place, image_id)
        rgb = np.asarray(read_image(place.photo(image_id)))
        if resized:
            picture = Image.open(folder / f"{image_id}{resized}.png")
            small = np.asarray(Image.fromarray(rgb).resize(picture.size, Image.Resampling.BILINEAR))
            shorter.add(small, np.asarray(picture))
            planes = torch.tensor(small).permute(2, 0, 1)[None].float()
            rgb = interpolate(planes, values.shape, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
        for name in TEMPLATES:
            mask = folder / f"{path.stem}_{name}.png"
            if not mask.is_file():
                continue
            maps = scored(classifier, rgb, regions_there, name)
            labels.add(maps.argmax(axis=0), np.asarray(Image.open(mask)))
            if name == PROMPTED:
                scores.add(maps[:, ::4, ::4], wanted["scores_every4"])
                if "scores_sum_per_class" in wanted:
                    sums.add(maps.sum(axis=(1, 2), dtype=np.float64), wanted["scores_sum_per_class"], relative=True)
    yield scores.row("proposals and CLIP: scores, float16", STORED)
    yield sums.row("proposals and CLIP: sums of a class, of the largest", PROBABILITIES)
    yield labels.row("proposals and CLIP: labels", 0.0)
    if shorter.compared:
        yield shorter.row("proposals and CLIP: the resized photo", 0.0)


def ensembles(place: Place) -> Iterator[Row]:
    """Scores of a network and CLIP with several weights."""
    wanted, maps, classes = np.load(place.folder / "ensemble.npz"), Distances(), Distances()
    network = torch.from_numpy(wanted["class_logits"]).softmax(dim=-1)[:, :-1].numpy()
    by_clip = torch.from_numpy(wanted["clip_logits_valid_only"])[:, :-1].softmax(dim=-1).numpy()
    logits, valid, seen = wanted["mask_logits"], np.flatnonzero(wanted["valid"]), wanted["seen"].astype(bool)
    size = logits.shape[1], logits.shape[2]
    masks = SoftMasks(size, logits, size)
    none = np.zeros(0, np.int64)
    for name in wanted.files:
        kind, _, weight = name.rpartition("lambda")
        if "scores" not in name:
            continue
        flags = np.zeros_like(seen) if "noflags" in name else seen
        if "no_ensemble" in name:
            scores = network
        elif "no_region_valid" in name:
            scores = ensemble(network, by_clip[:0], none, flags, float(weight))
        else:
            scores = ensemble(network, by_clip, valid, flags, float(weight))
        if kind.startswith("class_scores"):
            classes.add(scores, wanted[name])
        else:
            maps.add(added(masks, scores, slice(0, size[0]))[0], wanted[name])
    yield classes.row("ensemble: scores of regions", PROBABILITIES)
    yield maps.row("ensemble: sums", 4e-6)


PARTS: Parts = {
    "regions": Part(("regions/*.npz",), regions),
    "soft masks": Part(("float_masks/*.npz",), float_masks),
    "proposal model": Part(("proposal_model/*",), proposal_model),
    "ensemble": Part(("ensemble.npz",), ensembles),
    "selective search": Part(("selective_search/*",), selective_search),
    "proposals": Part(("proposals/*.npy",), proposals),
}
