"""zsseg (Xu et al., ECCV 2022): regions that something proposes, and CLIP's opinion of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from common.arguments import at_least_one, not_negative, option, positive
from pipeline.methods.method import CamSettings, Method, RegionMethod, TextSet, no_grid
from zsseg.proposals.table import PROPOSERS

if TYPE_CHECKING:
    import numpy as np

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import Scene
    from pipeline.steps.regions import RegionMaps, Regions


@dataclass(frozen=True)
class ZssegSettings:
    """zsseg's own settings; their help says what they are.

    proposer  the settings of the chosen way to propose regions; None: its defaults
    seen      indices of the classes that a network is taken to know, see zsseg/ensemble.py
    """

    proposals: str = option(
        "felzenszwalb",
        "where regions come from; `--method zsseg --proposals NAME --help` shows the options of one way",
        choices=tuple(PROPOSERS),
    )
    templates: str = option(
        "auto",
        "sentences for the class names; auto: vild14, unless the model never saw their words (toyworld)",
        choices=("auto", "dataset", "single", "vild14", "imagenet80"),
    )
    fill: str = option(
        "mean", "colour around a region: CLIP's mean, or black (zero)", flag="--region_fill", choices=("mean", "zero")
    )
    expand: float = option(
        1.0,
        "the box around a region is so many times as wide and high",
        flag="--region_expand",
        type=at_least_one,
        metavar="X",
    )
    threshold: float = option(
        0.5, "pixels of soft masks above it belong to the region", flag="--region_threshold", metavar="X"
    )
    matting: bool = option(False, "soft masks weigh the pixels, in place of cutting them out", flag="--region_matting")
    side: int = option(
        224,
        "regions become squares of this side for CLIP, as published for every CLIP",
        flag="--region_side",
        type=positive,
        metavar="SIDE",
    )
    at_once: int | None = option(
        None,
        "regions that go through CLIP together; not given: 256 on a GPU, else 8",
        flag="--region_batch",
        type=positive,
        metavar="N",
    )
    weight: float = option(
        0.7,
        "where regions carry class probabilities of a network: its weight for seen classes, CLIP's for unseen ones; "
        "0: CLIP alone. 0.7 published for VOC, 0.8 for COCO-Stuff, 0.4 for other data sets than that of the training",
        flag="--ensemble",
        metavar="X",
    )
    logit_scale: float = option(
        100.0,
        "factor of the cosines of regions and words, as published; 0: CLIP's own, where that is another one",
        type=not_negative,
        metavar="X",
    )
    proposer: Any = None
    seen: tuple[int, ...] = ()


def complete(clip: Clip, spec: DatasetSpec, settings: ZssegSettings) -> ZssegSettings:
    """Raises UserError for a folder or weights that the chosen way to propose regions cannot work with."""
    from common.errors import UserError
    from zsseg.ensemble import seen_classes
    from zsseg.words import choose

    if settings.side < clip.patch_size:
        raise UserError(f"--region_side {settings.side}: expected at least a patch of this CLIP, {clip.patch_size}")
    proposer = PROPOSERS[settings.proposals]
    own = proposer.complete(proposer.with_classes(settings.proposer or proposer.settings(), spec))
    proposer.ready(own, clip)
    templates = "dataset" if clip.learned else choose(clip, settings.templates, "vild14")
    seen = seen_classes(spec.classes, spec.unseen, proposer.learned(own))
    scale = settings.logit_scale or float(clip.logit_scale)
    return replace(settings, templates=templates, proposer=own, seen=seen, logit_scale=scale)


def words(spec: DatasetSpec, settings: ZssegSettings) -> Words:
    """Bare class names; without background words there is the word itself to compete."""
    from clip.templates import Words
    from zsseg.names import class_names
    from zsseg.words import TEMPLATES

    background = (spec.background_prompts or ("background",)) if spec.has_background else ()
    templates = (spec.template,) if settings.templates == "dataset" else TEMPLATES[settings.templates]
    return Words([*class_names(spec), *((word,) for word in background)], templates)


def preparation(clip: Clip, settings: Any) -> Preparation:
    """Not used: photos come at their own size."""
    from clip.image import AS_CLIP_ES

    return AS_CLIP_ES


def maps(
    clip: Clip, scenes: Sequence[Scene], labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[RegionMaps]:
    """The scores of every region for the classes of its photo, which compete with each other and the background words.

    A region without a pixel, and what no region covers, have no score.
    """
    from pipeline.steps.regions import RegionMaps
    from pipeline.steps.tensors import to_numpy
    from zsseg.regions import Crops, classify, encode_regions

    options = settings.options
    proposer = PROPOSERS[options.proposals]
    propose = proposer.ready(options.proposer, clip)
    if settings.augmented:
        sides = (False, True) if settings.flip else (False,)
        propose = partial(propose, views=list(product(dict.fromkeys([1.0, *settings.scales]), sides)))
    proposed = [propose(photo) if regions is None else regions for photo, regions in scenes]
    crops = Crops(options.threshold, options.fill, options.expand, options.matting, options.side)
    photos = ((at_size(photo.rgb, regions.size), regions) for (photo, _), regions in zip(scenes, proposed))
    encoded = encode_regions(clip, photos, crops, settings.precision, settings.compile, options.at_once)
    results = []
    for regions, found, classes in zip(proposed, encoded, labels):
        by_clip = to_numpy(classify(found.features, text.foreground, classes, text.background, options.logit_scale))
        results.append(RegionMaps(regions, scores_of(regions, by_clip, found.numbers, classes, options)))
    return results


def scores_of(
    regions: Regions, by_clip: np.ndarray, numbers: np.ndarray, classes: Sequence[int], options: ZssegSettings
) -> np.ndarray:
    """(Q, k) scores: CLIP's probabilities (Q', k) of the regions that it saw, or those of the ensemble."""
    import numpy as np

    from zsseg.ensemble import ensemble, of_classes

    probabilities = getattr(regions, "probabilities", None)
    if probabilities is None:
        scores = np.zeros((len(regions), len(classes)), np.float32)
        scores[numbers] = by_clip
        return scores
    seen = np.array([index in options.seen for index in classes], bool)
    scores = ensemble(of_classes(probabilities, classes), by_clip, numbers, seen, options.weight)
    return scores / getattr(regions, "views", 1)


def at_size(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photo (H, W, 3) uint8 at the size (h, w) at which its regions lie; bilinear with antialiasing."""
    import numpy as np
    from PIL import Image

    if rgb.shape[:2] == size:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR))


METHOD = Method(
    no_grid,
    ZssegSettings,
    complete,
    words,
    preparation,
    kind=lambda settings: "probability",
    resnets=True,
    unlabelled=True,
    regions=RegionMethod(maps, PROPOSERS),
)
