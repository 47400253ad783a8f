"""The published configurations of zsseg by name: what the network was, and how it was trained and looked at images.

Values are those of Xu et al. (2022) after their files' inheritance; docs/zsseg.md says which ones are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One configuration.

    dataset     whose images are looked at
    trained_on  whose seen classes it was trained on, where those are another data set's
    network     one of zsseg.sizes.NETWORKS
    queries, regions  the words that queries and image regions are compared with: a set of templates, or "learned"
    clip        open_clip's name of the model, with OpenAI's weights
    seen        whether classes seen in training are told apart in the ensemble; other classes are all unseen then
    ensemble    CLIP's share in the scores of unseen classes, 1 - it in those of seen ones
    threshold   of the masks that CLIP looks at
    short, longest  sides of images in evaluation
    crop, batch, iterations  of the training, batch over all processes
    """

    dataset: str
    network: str
    queries: str
    regions: str
    clip: str = "ViT-B-16"
    trained_on: str = ""
    seen: bool = True
    ensemble: float = 0.8
    threshold: float = 0.5
    short: int = 640
    longest: int = 2560
    crop: int = 640
    batch: int = 32
    iterations: int = 60_000


def _coco(network: str, words: str, clip: str = "ViT-B-16") -> Preset:
    return Preset("cocostuff", network, words, words, clip)


def _voc(network: str, regions: str) -> Preset:
    return Preset("voc20", network, "single", regions, "ViT-B-16", "", True, 0.7, 0.5, 512, 2048, 512, 16, 20_000)


def _cross(dataset: str, words: str, ensemble: float, threshold: float, short: int, seen: bool = False) -> Preset:
    return Preset(dataset, "R101c", words, words, "ViT-B-16", "cocostuff", seen, ensemble, threshold, short, 2048)


PRESETS: Mapping[str, Preset] = {
    "coco-156-R50": _coco("R50", "learned"),
    "coco-156-R101c": _coco("R101c", "learned"),
    "coco-156-single-R50": _coco("R50", "single"),
    "coco-156-single-R101c": _coco("R101c", "single"),
    "coco-156-vild14-R50": _coco("R50", "vild14"),
    "coco-156-vild14-R101c": _coco("R101c", "vild14"),
    "coco-156-imagenet80-R50": _coco("R50", "imagenet80"),
    "coco-156-imagenet80-R101c": _coco("R101c", "imagenet80"),
    "coco-156-single-R101c-rn50": _coco("R101c", "single", "RN50"),
    "coco-156-single-R101c-rn101": _coco("R101c", "single", "RN101"),
    "coco-156-single-R101c-rn50x4": _coco("R101c", "single", "RN50x4"),
    "coco-156-single-R101c-rn50x16": _coco("R101c", "single", "RN50x16"),
    "coco-156-single-R101c-vit-b32": _coco("R101c", "single", "ViT-B-32"),
    "voc-15-R50": _voc("R50", "learned"),
    "voc-15-R101c": _voc("R101c", "learned"),
    "voc-15-single-R50": _voc("R50", "single"),
    "voc-15-single-R101c": _voc("R101c", "single"),
    "voc-20-cross": _cross("voc20", "learned", 0.4, 0.5, 512, seen=True),
    "context-59-cross": _cross("context59", "vild14", 0.4, 0.5, 512),
    "cityscapes-19-cross": _cross("cityscapes", "vild14", 0.4, 0.3, 1024),
    "ade20k-150-cross": _cross("ade20k", "vild14", 0.5, 0.4, 512),
}
