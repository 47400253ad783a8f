"""What the dense methods since SCLIP share: sliding windows, several words a class, thresholds, PAMR.

Protocol of SCLIP (Wang et al., ECCV 2024); the constants published for each data set are in the methods' own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from common.arguments import count, not_negative, option, positive, share
from pipeline.methods.method import CamSettings, LateSteps, Method, TextSet, by_labels

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair, Seen
    from pipeline.steps.dense_attention import Tokens

    # (clip, windows, the method's settings) to the patches (M, N, D) that leave the last block, and their grid
    OutputOf = Callable[[Clip, "Windows", Any], tuple[Tensor, tuple[int, int]]]

LONGEST = 2048  # of an image's sides, as published
CELL = 4  # pixels of the scaled image that a value of a map stands for
ON_CPU, ON_GPU = 16, 64  # windows that go together,
PATCHES = 196  # of this many patches; fewer of larger ones
COSINES = 1 << 27  # of images and words at the images' size that are held at once; 0.5 GB
FEWEST_BLOCKS = 3  # of an image tower that has blocks in the middle
BACKGROUND_WORDS = tuple(
    "sky wall tree wood grass road sea river mountain sands desk bed building cloud lamp door window wardrobe ceiling "
    "shelf curtain stair floor hill rail fence".split()
)
FEW_WORDS = (*BACKGROUND_WORDS[:14], "floor", "hill", "rail")  # ProxyCLIP's, for COCO's objects
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

    background  "words": SCLIP's 26; "few": 17 of them; "word": the word itself
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
class SlidingSettings:
    """The settings of windows and words; their help says what they are.

    FILLED     whether the public code, too, fills its windows up to whole patches
    POSITIONS  how positions are resized, as in clip.vision.resize_positions, but for `published_slips`
    SENTENCES  the templates that "auto" stands for
    """

    FILLED: ClassVar[bool] = False
    POSITIONS: ClassVar[str] = "bicubic"
    SENTENCES: ClassVar[str] = "imagenet80"
    short_side: int | None = given(positive, "shorter side that images are scaled to", "PIXELS")
    window: int | None = given(count, "side of the windows that the network sees; 0: the whole image", "PIXELS")
    stride: int | None = given(positive, "from window to window", "PIXELS")
    logit_scale: float | None = given(not_negative, "cosines are multiplied by it before the softmax", "X")
    background: str = option(
        "auto",
        "what competes with the classes: the data set's background words, SCLIP's 26 words, 17 of them (few), or the "
        "word itself; auto: as published, the data set's own for other data sets",
        choices=("auto", "dataset", "words", "few", "word"),
    )
    synonyms: str = option(
        "max",
        "several names of a class are words of their own, the best of which counts (max, as published), or one "
        "embedding (mean)",
        choices=("max", "mean"),
    )
    templates: str = option(
        "auto",
        "sentences for the names: the 80 of ImageNet, `a photo of a {}.` (simple), or the data set's own; auto: as "
        "published (GEM: simple, the others: the 80), unless the model never saw their words (toyworld)",
        choices=("auto", "dataset", "simple", "imagenet80"),
    )
    published_slips: bool = option(
        False,
        "repeat what looks like a slip in the public code (docs/methods.md, section 8): positions shifted by a tenth "
        "of a cell, windows that lose what does not fill a patch",
    )


@dataclass(frozen=True)
class WindowSettings(SlidingSettings):
    """The same, and those of how classes are chosen by their words' cosines."""

    prob_threshold: float | None = given(share, "pixels whose best class has less become background", "P")
    area_threshold: float | None = given(share, "classes with at most this share of all classes' pixels go", "P")
    pamr: int | None = given(count, "steps of pixel-adaptive refinement (PAMR) of the cosines; 0: none", "STEPS")


@dataclass(frozen=True)
class MiddleSettings(WindowSettings):
    """The settings of a method that reads middle blocks of the image tower.

    blocks  which ones, where they are not the published ones; for the record of a CAM file
    """

    blocks: str | None = None


def completed(clip: Clip, spec: DatasetSpec, settings: Any, published: Mapping[str, Published]) -> Any:
    """The settings with the constants of the data set, or else the method's defaults (key "").

    Raises UserError for a model that is no ViT, and for windows that are too small or leave gaps.
    """
    from clip.resnet import is_resnet
    from clip.templates import knows_templates
    from common.errors import UserError

    if is_resnet(clip.visual):
        raise UserError("--method: this one changes the attention of a vision transformer, and the model is a ResNet")
    constants = published.get(spec.name, published[""])
    values = {field.name: getattr(constants, field.name) for field in fields(Published) if field.name != "background"}
    if not spec.has_background:
        values |= {"prob_threshold": 0.0, "area_threshold": 0.0}
    left_open = {key: value for key, value in values.items() if getattr(settings, key, "") is None}
    background, templates = settings.background, settings.templates
    if background == "auto":
        background = constants.background if spec.name in published or not spec.background_prompts else "dataset"
    if templates == "auto":
        named = templates_of(settings.SENTENCES, spec)
        templates = settings.SENTENCES if knows_templates(clip, named) else "dataset"
    settings = replace(settings, **left_open, background=background, templates=templates)
    window, stride = settings.window, settings.stride
    if 0 < window < clip.patch_size:
        raise UserError(
            f"--window {window}: expected at least a patch of this CLIP, {clip.patch_size}, or 0: no windows"
        )
    if 0 < window < stride:
        raise UserError(f"--stride {stride}: would leave gaps between windows of {window}; expected 1 to {window}")
    return settings


def blocks_read(method: str, clip: Clip, published: Sequence[int]) -> str | None:
    """The middle blocks that are read where the tower has too few for the published ones; None: those.

    Raises UserError for a tower without any.
    """
    from common.errors import UserError
    from pipeline.steps.dense_attention import middle_blocks

    blocks = len(clip.visual.transformer.resblocks)
    if blocks < FEWEST_BLOCKS:
        raise UserError(
            f"--method {method}: reads middle blocks, and this image tower has {blocks}; use a CLIP with at least "
            f"{FEWEST_BLOCKS}, or --method naclip"
        )
    ours = sorted(set(middle_blocks(published, blocks).values()))
    here, there = (" to ".join(dict.fromkeys((str(some[0]), str(some[-1])))) for some in (ours, published))
    return None if here == there else f"{here} in place of {there}"


def templates_of(name: str, spec: DatasetSpec) -> Sequence[str]:
    from clip.templates import IMAGENET80, SIMPLE

    return {"imagenet80": IMAGENET80, "simple": SIMPLE}.get(name, (spec.template,))


def words_of(names: Names, spec: DatasetSpec, settings: SlidingSettings) -> Words:
    """The names of the classes, then the background's; each a word of its own with `--synonyms max`."""
    from clip.templates import Words

    lists = {
        "dataset": spec.background_prompts or ("background",),
        "words": BACKGROUND_WORDS,
        "few": FEW_WORDS,
        "word": ("background",),
    }
    background = lists.get(settings.background, lists["dataset"]) if spec.has_background else ()
    texts: Sequence[Sequence[str]] = spec.plain_prompts or spec.prompts
    if spec.name in names:
        texts = [names[spec.name].get(name, (name,)) for name in spec.classes]
    templates = templates_of(settings.templates, spec)
    return Words([*texts, *((word,) for word in background)], templates, separate=settings.synonyms == "max")


def preparation(clip: Clip, settings: SlidingSettings | None) -> Preparation:
    """The shorter side as the settings say, not filled up to whole patches."""
    from clip.image import Preparation

    return Preparation("exact", (LONGEST, (settings.short_side if settings else None) or Published.short_side))


@dataclass(frozen=True)
class Windows:
    """Windows on their way through the image tower.

    images     (M, 3, h, w), normalised as CLIP's
    tokens     what left every block but the last
    text       (Q, E) unit embeddings of words
    owners     the class of each word
    precision  of what runs before the last block
    """

    images: Tensor
    tokens: Tokens
    text: Tensor
    owners: Sequence[int]
    precision: str = "float32"


def method_of(
    output: OutputOf,
    settings: type,
    published: Mapping[str, Published],
    names: Names = WORDS,
    reads_words: bool = False,
) -> Method:
    """A method that scores windows by the patches that leave the last block.

    published    its constants by the name of the data set; "" for all others
    names        what it calls the classes
    reads_words  whether the patches depend on the words: windows then go together with those of images of the same
                 labels only
    """

    def look(
        clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
    ) -> list[Seen]:
        results: list[Any] = [()] * len(images)
        everything = tuple(sorted(set().union(*labels)))
        together = by_labels(labels) if reads_words else {everything: list(range(len(images)))}
        for present, members in together.items():
            own = [labels[index] for index in members]
            cosines = class_cosines(clip, output, images[members], own, present, text, settings)
            for index, found in zip(members, cosines):
                results[index] = found
        return results

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
    clip: Clip,
    output: OutputOf,
    images: Tensor,
    labels: Sequence[Sequence[int]],
    everything: Sequence[int],
    text: TextSet,
    settings: CamSettings,
) -> list[Seen]:
    """Of each image of (B, 3, H, W) cosines (Q_i, h, w) with its words, a value for every CELL pixels of it.

    Behind them the class of each word, as in `TextSet.words_of`, and whether 0 is the background.

    everything  the classes of all images, whose words are looked for together
    """
    import torch

    size = map_size(images)
    if not len(everything):
        return [(images.new_zeros(0, *size), (), False)] * len(images)
    rows, owners = text.rows_of(everything)
    column = {row: index for index, row in enumerate(rows)}
    words, has_background = text.words_of(everything)[0], len(text.background) > 0
    results: list[Seen] = []
    for part in in_parts(images, len(rows)):
        cosines = merged_cosines(clip, output, part, words, owners, settings)
        cosines = torch.nn.functional.interpolate(cosines, size=size, mode="bilinear", align_corners=False)
        for image, scores in zip(part, cosines):
            present = labels[len(results)]
            own, owner = text.rows_of(present) if len(present) else ([], [])
            scores = scores[[column[row] for row in own]]
            if settings.options.pamr and own:
                scores = refined(scores[None], image[None], settings.options.pamr)[0]
            results.append((scores, owner, has_background))
    return results


def in_parts(images: Tensor, planes: int) -> Iterable[Tensor]:
    """Images (B, 3, H, W) in parts, of which the (planes, H, W) of each image fit into memory."""
    return images.split(max(1, COSINES // (planes * images[0, 0].numel() or 1)))


def map_size(images: Tensor) -> tuple[int, int]:
    """(h, w) of the maps of images (..., H, W)."""
    return -(-images.shape[-2] // CELL), -(-images.shape[-1] // CELL)


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
    clip: Clip, output: OutputOf, images: Tensor, text: Tensor, owners: Sequence[int], settings: CamSettings
) -> Tensor:
    """Cosines (B, Q, H, W) of images (B, 3, H, W) with words (Q, E): the mean over the windows."""

    def score(windows: Windows) -> Tensor:
        return cosines_of(clip, output, windows, settings.options)

    return merged(clip, images, text, owners, settings, score)


def merged(
    clip: Clip,
    images: Tensor,
    text: Tensor,
    owners: Sequence[int],
    settings: CamSettings,
    score: Callable[[Windows], Tensor],
    attention_blocks: int = 0,
) -> Tensor:
    """What `score` says (M, C, h', w') of windows, at the size of the images and merged, (B, C, H, W).

    attention_blocks  as in pipeline.steps.dense_attention.run_blocks
    """
    import torch

    from pipeline.steps.windows import slide

    options = settings.options
    dropping = options.published_slips and not options.FILLED

    def of_windows(windows: Tensor) -> Tensor:
        height, width = windows.shape[-2:]
        top, left, padded = (0, 0, windows) if dropping else centred(windows, clip.patch_size)
        scores = score(look(clip, padded, text, owners, settings, attention_blocks))
        maps = torch.nn.functional.interpolate(
            scores, size=tuple(padded.shape[-2:]), mode="bilinear", align_corners=False
        )
        return maps[..., top : top + height, left : left + width]

    with torch.no_grad():
        at_once = together(clip, images, options.window, len(text))
        return slide(images, options.window, options.stride, of_windows, at_once)


def look(
    clip: Clip,
    images: Tensor,
    text: Tensor,
    owners: Sequence[int],
    settings: CamSettings,
    attention_blocks: int = 0,
) -> Windows:
    """Windows (M, 3, h, w) after all blocks but the last."""
    from pipeline.steps.dense_attention import run_blocks
    from pipeline.steps.trunk import block_runner

    positions = "bicubic-dino" if settings.options.published_slips else settings.options.POSITIONS
    run = block_runner(settings.compile)
    tokens = run_blocks(clip.visual, images, positions, attention_blocks, settings.precision, run)
    return Windows(images, tokens, text, owners, settings.precision)


def cosines_of(clip: Clip, output: OutputOf, windows: Windows, options: Any) -> Tensor:
    """(M, Q, h, w) on the grid of the patches."""
    import torch

    from pipeline.steps.dense_attention import to_features

    leaving, grid = output(clip, windows, options)
    features = torch.nn.functional.normalize(to_features(clip.visual, leaving), dim=-1)
    return (features @ windows.text.T).transpose(1, 2).unflatten(2, grid)


def together(clip: Clip, images: Tensor, window: int, words: int) -> int:
    """How many windows go through the network together: fewer of many patches, and where there are many words."""
    height, width = (min(window or side, side) for side in images.shape[-2:])
    patches, most = height * width / clip.patch_size**2, ON_CPU if images.device.type == "cpu" else ON_GPU
    return max(1, min(most, int(most * (PATCHES / patches) ** 2), COSINES // (words * height * width)))


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
