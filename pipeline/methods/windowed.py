"""What the dense methods since SCLIP share: sliding windows, several words a class, thresholds, PAMR.

Protocol of SCLIP (Wang et al., ECCV 2024); the constants published for each data set are in the methods' own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from common.arguments import count, not_negative, option, positive, share
from pipeline.methods.method import CamSettings, LateSteps, Method, TextSet

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair, Seen

    # (clip, windows (M, 3, h, w), text (Q, E), its classes, settings) to the patches (M, N, D) that leave
    # the last block, and their grid
    OutputOf = Callable[[Clip, Tensor, Tensor, Sequence[int], Any], tuple[Tensor, tuple[int, int]]]

LONGEST = 2048  # of an image's sides, as published
CELL = 4  # pixels of the scaled image that a value of a map stands for
BACKGROUND_WORDS = tuple(
    "sky wall tree wood grass road sea river mountain sands desk bed building cloud lamp door window wardrobe ceiling "
    "shelf curtain stair floor hill rail fence".split()
)
PERSON = ("person", *(f"person in {worn}" for worn in "shirt jeans dress sweater skirt jacket".split()))
Names = Mapping[str, Mapping[str, tuple[str, ...]]]  # by data set: words of the classes that differ from their names
VOC_WORDS = {  # SCLIP's
    "boat": ("ship",),
    "diningtable": ("table",),
    "person": PERSON,
    "tvmonitor": ("television monitor", "tv monitor", "monitor", "television", "screen"),
}
WORDS: Names = {
    "voc12": VOC_WORDS,
    "voc20": VOC_WORDS,
    "context59": {},
    "context60": {},
    "coco14": {"person": (*PERSON, "body")},
    "cocoobject": {"person": (*PERSON, "body")},
}


@dataclass(frozen=True)
class Published:
    """A method's constants on a data set.

    background  "words": the many of SCLIP's lists; "word": the word itself
    """

    short_side: int = 336
    window: int = 224
    stride: int = 112
    logit_scale: float = 40.0
    prob_threshold: float = 0.0
    area_threshold: float = 0.0
    pamr: int = 0
    background: str = "words"


def given(kind: Callable[[str], Any], help: str, metavar: str, flag: str = "") -> Any:
    return option(None, f"{help}; not given: as published", type=kind, metavar=metavar, flag=flag)


@dataclass(frozen=True)
class WindowSettings:
    """The protocol's settings; their help says what they are.

    FILLED  whether the public code, too, fills its windows up to whole patches
    """

    FILLED: ClassVar[bool] = False
    short_side: int | None = given(positive, "shorter side that images are scaled to", "PIXELS")
    window: int | None = given(count, "side of the windows that the network sees; 0: the whole image", "PIXELS")
    stride: int | None = given(positive, "from window to window", "PIXELS")
    logit_scale: float | None = given(not_negative, "cosines are multiplied by it before the softmax", "X")
    prob_threshold: float | None = given(share, "pixels whose best class has less become background", "P")
    area_threshold: float | None = given(share, "classes with at most this share of all classes' pixels go", "P")
    pamr: int | None = given(count, "steps of pixel-adaptive refinement (PAMR) of the cosines; 0: none", "STEPS")
    background: str = option(
        "auto",
        "what competes with the classes: the data set's background words, SCLIP's 26 words, or the word itself; auto: "
        "as published, the data set's own for other data sets",
        choices=("auto", "dataset", "words", "word"),
    )
    synonyms: str = option(
        "max",
        "several names of a class are words of their own, the best of which counts (max, as published), or one "
        "embedding (mean)",
        choices=("max", "mean"),
    )
    templates: str = option(
        "auto",
        "sentences for the names: the 80 of ImageNet, or the data set's own; auto: the 80, unless the model never saw "
        "their words (toyworld)",
        choices=("auto", "dataset", "imagenet80"),
    )
    published_slips: bool = option(
        False,
        "repeat what looks like a slip in the public code (docs/methods.md, section 8): positions shifted by a tenth "
        "of a cell, windows that lose what does not fill a patch",
    )


def completed(clip: Clip, spec: DatasetSpec, settings: Any, published: Mapping[str, Published]) -> Any:
    """The settings with the constants of the data set, or else the method's defaults (key "")."""
    from clip.resnet import is_resnet
    from clip.templates import IMAGENET80, knows_templates
    from common.errors import UserError

    if is_resnet(clip.visual):
        raise UserError("--method: this one changes the attention of a vision transformer, and the model is a ResNet")
    constants = published.get(spec.name, published[""])
    values = {field.name: getattr(constants, field.name) for field in fields(Published) if field.name != "background"}
    if not spec.has_background:
        values |= {"prob_threshold": 0.0, "area_threshold": 0.0}
    left_open = {key: value for key, value in values.items() if getattr(settings, key) is None}
    background, templates = settings.background, settings.templates
    if background == "auto":
        background = constants.background if spec.name in published or not spec.background_prompts else "dataset"
    if templates == "auto":
        templates = "imagenet80" if knows_templates(clip, IMAGENET80) else "dataset"
    return replace(settings, **left_open, background=background, templates=templates)


def words_of(names: Names, spec: DatasetSpec, settings: WindowSettings) -> Words:
    """The names of the classes, then the background's; each a word of its own with `--synonyms max`."""
    from clip.templates import IMAGENET80, Words

    lists = {"dataset": spec.background_prompts or ("background",), "words": BACKGROUND_WORDS, "word": ("background",)}
    background = lists.get(settings.background, lists["dataset"]) if spec.has_background else ()
    texts: Sequence[Sequence[str]] = spec.plain_prompts or spec.prompts
    if spec.name in names:
        texts = [names[spec.name].get(name, (name,)) for name in spec.classes]
    templates = (spec.template,) if settings.templates == "dataset" else IMAGENET80
    return Words([*texts, *((word,) for word in background)], templates, separate=settings.synonyms == "max")


def preparation(clip: Clip, settings: WindowSettings | None) -> Preparation:
    """The shorter side as the settings say, not filled up to whole patches."""
    from clip.image import Preparation

    return Preparation("exact", (LONGEST, (settings.short_side if settings else None) or Published.short_side))


def method_of(output: OutputOf, settings: type, published: Mapping[str, Published], names: Names = WORDS) -> Method:
    """A method that scores windows by the patches that leave the last block.

    published  its constants by the name of the data set; "" for all others
    names      what it calls the classes
    """

    def look(
        clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
    ) -> list[Seen]:
        options = settings.options
        return [class_cosines(clip, output, image[None], one, text, options) for image, one in zip(images, labels)]

    late = LateSteps(look, finish, ("prob_threshold", "area_threshold"))
    return Method(
        late.maps,
        settings,
        lambda clip, spec, options: completed(clip, spec, options, published),
        partial(words_of, names),
        preparation,
        kind=lambda options: "logit",
        unlabelled=True,
        late=late,
    )


def class_cosines(
    clip: Clip, output: OutputOf, image: Tensor, present: Sequence[int], text: TextSet, options: Any
) -> Seen:
    """Cosines (Q, h, w) of an image (1, 3, H, W) with its words, a value for every CELL pixels of it.

    Behind them the class of each word, as in `TextSet.words_of`, and whether 0 is the background.
    """
    from math import ceil

    import torch

    rows, owners = text.words_of(present)
    size = [ceil(side / CELL) for side in image.shape[-2:]]
    if not len(present):
        return image.new_zeros(0, *size), (), False
    cosines = merged_cosines(clip, output, image, rows, owners, options)
    cosines = torch.nn.functional.interpolate(cosines, size=size, mode="bilinear", align_corners=False)
    if options.pamr:
        cosines = refined(cosines, image, options.pamr)
    return cosines[0], owners, len(text.background) > 0


def finish(seen: Sequence[Seen], settings: CamSettings) -> list[MapPair]:
    """B pairs of the same logits (k, h, w) twice: there is no affinity."""
    logits = [class_logits(cosines, owners, with_it, settings.options) for cosines, owners, with_it in seen]
    return list(zip(logits, logits))


def class_logits(cosines: Tensor, owners: Sequence[int], has_background: bool, options: Any) -> Tensor:
    """Logits (k, h, w) of the classes of what `class_cosines` gives."""
    from pipeline.steps.dense_classes import class_values, to_logits, without_small_classes

    if not owners:
        return cosines
    values = class_values(cosines, owners, options.logit_scale)
    if has_background and options.area_threshold:
        values = without_small_classes(values, options.area_threshold)
    return to_logits(values, options.prob_threshold, has_background)


def merged_cosines(
    clip: Clip, output: OutputOf, image: Tensor, text: Tensor, owners: Sequence[int], options: Any
) -> Tensor:
    """Cosines (1, Q, H, W) of an image (1, 3, H, W) with words (Q, E): the mean over the windows."""
    import torch
    from torch.nn import functional as F

    from pipeline.steps.dense_attention import to_features
    from pipeline.steps.windows import slide

    dropping = options.published_slips and not options.FILLED

    def score(windows: Tensor) -> Tensor:
        height, width = windows.shape[-2:]
        top, left, padded = (0, 0, windows) if dropping else centred(windows, clip.patch_size)
        tokens, grid = output(clip, padded, text, owners, options)
        cosines = (F.normalize(to_features(clip.visual, tokens), dim=-1) @ text.T).transpose(1, 2).unflatten(2, grid)
        maps = F.interpolate(cosines, size=tuple(padded.shape[-2:]), mode="bilinear", align_corners=False)
        return maps[..., top : top + height, left : left + width]

    with torch.no_grad():
        return slide(image, options.window, options.stride, score)


def centred(windows: Tensor, patch: int) -> tuple[int, int, Tensor]:
    """Windows with zeros around them, to whole patches, as ClearCLIP has them; how many rows and columns are before."""
    import torch

    height, width = windows.shape[-2:]
    tall, wide = -height % patch, -width % patch
    top, left = tall // 2, wide // 2
    return top, left, torch.nn.functional.pad(windows, (left, wide - left, top, tall - top))


def refined(cosines: Tensor, image: Tensor, steps: int) -> Tensor:
    """The cosines (1, Q, h, w) after PAMR, with the image (1, 3, H, W) at their size."""
    import torch

    from pipeline.steps.pamr import pamr

    small = torch.nn.functional.interpolate(image, size=cosines.shape[-2:], mode="bilinear", align_corners=False)
    return pamr(cosines, small, steps)


def positions_of(options: WindowSettings) -> str:
    """How positions are resized, as in clip.vision.resize_positions."""
    return "bicubic-dino" if options.published_slips else "bicubic"
