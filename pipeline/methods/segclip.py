"""SegCLIP (Luo et al., ICML 2023): patches gathered into groups, groups named by text, in windows. Needs no labels.

Takes a SegCLIP checkpoint in place of a CLIP. Of images with labels only these classes get scores, while all classes of
the data set take part in the groups' probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.arguments import option, positive
from pipeline.methods.method import CamSettings, Method, TextSet, by_labels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair
    from segclip.load import GroupingClip

LONG_SIDE = 2048  # that an image may have once its short side is that of a window
ON_CPU, ON_GPU = 8, 64  # windows that go together
TOP_CLASSES = 5


@dataclass(frozen=True)
class SegClipSettings:
    """SegCLIP's own settings; their help says what they are."""

    background_threshold: float | None = option(
        None,
        "groups whose best class scores less are background; 0: there is none; not given: the data set's, published "
        "0.8 for VOC, 0.25 for PASCAL-Context, 0.65 for COCO's objects",
    )
    top_classes: int = option(
        TOP_CLASSES, "the most probable classes of a window that its groups can be of", type=positive
    )
    templates: str = option(
        "auto",
        "sentences for the class names: `a photo of a {}.` (simple), 7 (subset) or 80 (full) of them, or the data "
        "set's own; auto: simple, unless the model never saw its words (toyworld)",
        choices=("auto", "dataset", "simple", "subset", "full"),
    )
    keep_groups: bool = option(False, "keep the group of each pixel in the CAM file, for pictures and the report")


def maps(
    clip: GroupingClip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """B pairs of the same map twice, there is no affinity: scores (k_i, H, W) of images (B, 3, H, W).

    With `keep_groups` the groups (H, W) are behind them. Windows of images with the same labels go together.
    """
    results: list[Any] = [()] * len(images)
    for present, members in by_labels(labels).items():
        for index, found in zip(members, class_scores(clip, images[members], present, text, settings)):
            results[index] = found
    return results


def class_scores(
    clip: GroupingClip, images: Tensor, present: Sequence[int], text: TextSet, settings: CamSettings
) -> list[tuple[Tensor, ...]]:
    """The same for images that show the same classes."""
    import torch

    from pipeline.steps.trunk import block_runner
    from pipeline.steps.windows import slide
    from segclip.maps import affinities, look_at_windows, scores_of

    options = settings.options or SegClipSettings()
    run = block_runner(settings.compile)
    keep = options.keep_groups and not settings.augmented

    def score(windows: Tensor) -> Tensor:
        seen = look_at_windows(clip, windows, text.foreground, settings.precision, run)
        affinity = affinities(seen, present, options.top_classes)
        scores = scores_of(affinity, seen.groups, options.background_threshold)
        if not keep:
            return scores
        members = torch.nn.functional.one_hot(seen.groups, affinity.shape[1])  # (b, S, S, G)
        return torch.cat([scores, members.permute(0, 3, 1, 2).to(scores.dtype)], dim=1)

    side = clip.visual.image_size
    means = slide(images, side, side, score, ON_CPU if clip.device.type == "cpu" else ON_GPU)
    classes, groups = means[:, : len(present)], means[:, len(present) :]
    return [(scores, scores, one.argmax(dim=0)) if keep else (scores, scores) for scores, one in zip(classes, groups)]


def complete(clip: Clip, spec: DatasetSpec, settings: SegClipSettings) -> SegClipSettings:
    """Raises UserError for a threshold where there is no background."""
    from clip.templates import SIMPLE, knows_templates
    from common.errors import UserError

    threshold = settings.background_threshold
    if threshold is not None and not spec.has_background:
        raise UserError(f"--background_threshold {threshold}: {spec.name} has no background class; leave it out")
    if threshold is None and spec.has_background:
        threshold = spec.segclip_threshold
    templates = settings.templates
    if templates == "auto":
        templates = "simple" if knows_templates(clip, SIMPLE) else "dataset"
    return replace(settings, background_threshold=threshold, templates=templates)


def words(spec: DatasetSpec, settings: SegClipSettings) -> Words:
    """SegCLIP's names; the background has none. Embeddings are averaged as they are (docs/methods.md, section 7)."""
    from clip.templates import IMAGENET80, SEGCLIP7, SIMPLE, Words

    templates = {"simple": SIMPLE, "subset": SEGCLIP7, "full": IMAGENET80}.get(settings.templates, (spec.template,))
    return Words(spec.segclip_prompts or spec.plain_prompts or spec.prompts, templates, unit=False)


def preparation(clip: Clip, settings: SegClipSettings | None) -> Preparation:
    """The short side is that of a window."""
    from clip.image import Preparation

    return Preparation("exact", (LONG_SIDE, int(clip.visual.image_size)))


def load(source: Any, device: torch.device) -> Clip:
    """The checkpoint that a stage's ModelSource names. Raises UserError for anything else than a file."""
    from common.errors import UserError
    from segclip.load import EXPECTED, load_segclip

    if source.prompts is not None:
        raise UserError("--prompts: learned for a CLIP, which --method segclip does not use; leave it out")
    if not source.model:
        raise UserError(f"--model is needed with --method segclip: {EXPECTED}")
    if source.pretrained is not None or not Path(source.model).is_file():
        name = source.model if source.pretrained is None else f"{source.model} --pretrained {source.pretrained}"
        raise UserError(f"--model {name}: no file; --method segclip takes {EXPECTED}")
    return load_segclip(Path(source.model), device, source.activation)


METHOD = Method(
    maps,  # type: ignore[arg-type]  # its CLIP is what `load` gives
    SegClipSettings,
    complete,
    words,
    preparation,
    kind=lambda settings: "score",
    load=load,
    unlabelled=True,
)
