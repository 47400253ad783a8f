"""ResCLIP (Yang et al., CVPR 2025): NACLIP's attention, mixed with that of middle blocks and with a first answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from common.arguments import not_negative, option, positive_number, share
from pipeline.methods.windowed import MiddleSettings, Published, Windows, blocks_read, completed, method_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip
    from dataset.spec import DatasetSpec

PUBLISHED = {
    "": Published(),
    "voc12": Published(window=0, prob_threshold=0.1),
    "coco14": Published(prob_threshold=0.1),
    "cocoobject": Published(prob_threshold=0.1),
    "context60": Published(prob_threshold=0.1, background="word"),
    "voc20": Published(window=0),
    "context59": Published(),
    "cocostuff": Published(),
    "ade20k": Published(),
    "cityscapes": Published(short_side=560),
}
MIXING: Mapping[str, tuple[float, float, float, float, float]] = {  # first threshold; T1, l1; T2, l2
    "": (0.11, 2, 0.4, 1.8, 0.7),
    "voc12": (0.50, 2, 0.3, 2.2, 0.7),
    "voc20": (0.10, 2, 0.6, 2.1, 0.6),
    "context60": (0.30, 2, 0.3, 1.8, 0.7),
    "context59": (0.25, 2, 0.4, 1.8, 0.7),
    "coco14": (0.11, 2, 0.4, 1.8, 0.7),
    "cocoobject": (0.11, 2, 0.4, 1.8, 0.7),
    "cocostuff": (0.11, 2, 0.4, 1.8, 0.7),
    "ade20k": (0.25, 2, 0.3, 2.1, 0.7),
    "cityscapes": (0.10, 2, 0.2, 2.1, 0.6),
}


@dataclass(frozen=True)
class ResClipSettings(MiddleSettings):
    """The method's own settings; their help says what they are."""

    neighbourhood: float = option(
        5.0, "standard deviation of the Gaussian window around a patch, in patches", type=positive_number, metavar="STD"
    )
    first_threshold: float | None = option(
        None, "pixels of the first answer below it get label 0; not given: as published", type=share, metavar="P"
    )
    rcs: tuple[float, ...] | None = option(
        None,
        "T L: the attention is T times ((1 - L) its own + L that of blocks 6 to 9, or of those as deep in a "
        "small tower); not given: as published",
        type=not_negative,
        many=2,
        metavar="X",
    )
    sfr: tuple[float, ...] | None = option(
        None,
        "T L: the scores before the softmax are T times ((1 - L) products + L map of equal labels); 0 0: without the "
        "second pass; not given: as published",
        type=not_negative,
        many=2,
        metavar="X",
    )


def complete(clip: Clip, spec: DatasetSpec, settings: ResClipSettings) -> Any:
    """Raises UserError for a tower without middle blocks."""
    from pipeline.steps.residual_attention import EARLIER_BLOCKS

    settings = completed(clip, spec, settings, PUBLISHED)
    first, *weights = MIXING.get(spec.name, MIXING[""])
    return replace(
        settings,
        blocks=blocks_read("resclip", clip, EARLIER_BLOCKS),
        first_threshold=first if settings.first_threshold is None else settings.first_threshold,
        rcs=settings.rcs or tuple(weights[:2]),
        sfr=settings.sfr or tuple(weights[2:]),
    )


def output(clip: Clip, windows: Windows, options: ResClipSettings) -> tuple[Tensor, tuple[int, int]]:
    """Residual cross-correlation (RCS) for a first answer, whose labels then join the scores (SFR)."""
    import torch

    from pipeline.steps.dense_attention import to_features
    from pipeline.steps.residual_attention import Mixing, earlier_attention, first_labels, label_map, residual_output

    assert options.rcs and options.sfr and options.first_threshold is not None and options.logit_scale is not None
    tokens, text = windows.tokens, windows.text
    mixing = Mixing((options.rcs[0], options.rcs[1]), (options.sfr[0], options.sfr[1]))
    more: Any = {"std": options.neighbourhood, "earlier": earlier_attention(clip.visual, tokens)}
    found = residual_output(clip.visual, tokens, mixing, **more)
    if any(options.sfr):
        # as published, each word is a label of its own, though several may name one class
        classes = range(len(text)) if options.published_slips else windows.owners
        labels = first_labels(
            to_features(clip.visual, found),
            text,
            classes,
            windows.images,
            tokens.grid,
            clip.patch_size,
            options.logit_scale,
            options.first_threshold,
        )
        same = torch.stack([label_map(one, options.published_slips) for one in labels])
        found = residual_output(clip.visual, tokens, mixing, same, **more)
    return found, tokens.grid


METHOD = replace(method_of(output, ResClipSettings, PUBLISHED, reads_words=True), complete=complete)
