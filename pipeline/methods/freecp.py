"""FreeCP (Chen et al., ICCV 2025): classes that a window does not show go, on top of another dense method.

Its texts by a language model are left out: a class is its names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from common.arguments import option, share
from pipeline.methods import clearclip, gem, naclip, proxyclip, resclip, sc_clip, sfp
from pipeline.methods.dino import DINO
from pipeline.methods.method import CamSettings, Method, TextSet, by_labels
from pipeline.methods.windowed import (
    WORDS,
    Published,
    SlidingSettings,
    Windows,
    completed,
    cosines_of,
    in_parts,
    map_size,
    merged,
    preparation,
    words_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair
    from pipeline.methods.windowed import OutputOf

BOX_THRESHOLD = 0.4
CROPS = 64  # that go through the network together
_VOC, _OTHER = Published(448, 384, 112, 100.0), Published(448, 384, 112, 100.0, background="word")
PUBLISHED = {
    "": _VOC,
    "voc12": _VOC,
    "coco14": _VOC,
    "cocoobject": _VOC,
    "context60": _OTHER,
    "voc20": _VOC,
    "context59": _VOC,
    "cocostuff": _VOC,
    "ade20k": _VOC,
    "cityscapes": Published(560, 224, 112, 100.0),
}
THRESHOLDS: Mapping[str, tuple[float, float]] = {  # redundancy, ambiguity
    "": (0.1, 0.7),
    "voc12": (0.15, 0.8),
    "coco14": (0.15, 0.8),
    "cocoobject": (0.15, 0.8),
    "context60": (0.1, 0.7),
    "voc20": (0.15, 0.7),
    "context59": (0.1, 0.7),
    "cocostuff": (0.05, 0.7),
    "ade20k": (0.05, 0.7),
    "cityscapes": (0.1, 0.8),
}


def _through_mlp(attention: str) -> OutputOf:
    """The attention's output and the MLP on it, without what entered the block: how FreeCP has these two."""

    def output(clip: Clip, windows: Windows, options: Any) -> tuple[Tensor, tuple[int, int]]:
        from pipeline.steps.dense_attention import output_by, through_mlp

        gathered = output_by(clip.visual, windows.tokens, attention)
        return through_mlp(clip.visual.transformer.resblocks[-1], gathered), windows.tokens.grid

    return output


BASES: dict[str, tuple[OutputOf, Method | None]] = {  # the method has settings, where there are any
    "maskclip": (_through_mlp("identity"), None),
    "sclip": (_through_mlp("qq+kk"), None),
    "clearclip": (clearclip.output, None),
    "naclip": (naclip.output, naclip.METHOD),
    "resclip": (resclip.output, resclip.METHOD),
    "sc-clip": (sc_clip.output, sc_clip.METHOD),
    "sfp": (sfp.output, sfp.METHOD),
    "gem": (gem.output, None),
    "proxyclip": (proxyclip.output, proxyclip.METHOD),
}


@dataclass(frozen=True)
class FreeCpSettings(SlidingSettings):
    """The method's own settings; their help says what they are.

    of_base  the settings of the method below, as published for the data set
    """

    base: str = option("clearclip", "the dense method below", choices=tuple(BASES))
    redundancy: float | None = option(
        None, "classes whose refined map keeps at most this of their probabilities go; not given: as published",
        type=share, metavar="X",
    )  # fmt: skip
    ambiguity: float | None = option(
        None, "classes whose refined maps overlap at least so much are told apart in crops; not given: as published",
        type=share, metavar="X",
    )  # fmt: skip
    dino: str | None = DINO
    of_base: Any = None


def complete(clip: Clip, spec: DatasetSpec, settings: FreeCpSettings) -> FreeCpSettings:
    """Raises UserError where the method below does not go with the model, and for --dino that it does not read."""
    from common.errors import UserError

    if settings.dino is not None and settings.base != "proxyclip":
        raise UserError(f"--dino {settings.dino}: only read with --base proxyclip; pass it or leave --dino out")
    settings = completed(clip, spec, settings, PUBLISHED)
    low, high = THRESHOLDS.get(spec.name, THRESHOLDS[""])
    method, of_base = BASES[settings.base][1], None
    if method is not None:
        shared = {field.name: getattr(settings, field.name) for field in fields(SlidingSettings)}
        more = {"dino": settings.dino} if settings.base == "proxyclip" else {}
        of_base = method.complete(clip, spec, method.settings(**shared, **more))
    return replace(
        settings,
        redundancy=low if settings.redundancy is None else settings.redundancy,
        ambiguity=high if settings.ambiguity is None else settings.ambiguity,
        of_base=of_base,
    )


def maps(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """B pairs of (k_i, h, w) maps in [0, 1], a value for every CELL pixels: probabilities, and what is left of them."""
    import torch

    results: list[Any] = [()] * len(images)
    blocks, size = len(clip.visual.transformer.resblocks), map_size(images)
    for present, members in by_labels(labels).items():
        rows, owners = text.words_of(present)
        score = partial(purified, clip, settings.options, len(present))
        found = []
        for part in in_parts(images[members], 2 * len(present)):
            if not present:
                found += [part.new_zeros(0, *size)] * len(part)
                continue
            large = merged(clip, part, rows, owners, settings, score, blocks)
            found += list(torch.nn.functional.interpolate(large, size=size, mode="bilinear", align_corners=False))
        for index, both in zip(members, found):
            results[index] = (both[: len(present)], both[len(present) :])
    return results


def purified(clip: Clip, options: FreeCpSettings, count: int, windows: Windows) -> Tensor:
    """Of windows the maps (M, 2k, h, w) of k = `count` classes: probabilities from 0 to 1, and what is left of them."""
    import torch

    from pipeline.steps.affinity import mean_attention, refine, transition_matrix
    from pipeline.steps.dense_classes import class_values
    from pipeline.steps.purification import redundancy

    assert options.redundancy is not None and options.logit_scale is not None
    tokens = windows.tokens
    cosines = cosines_of(clip, BASES[options.base][0], windows, options.of_base)
    if cosines.shape[-2:] != tokens.grid:  # of another network
        cosines = torch.nn.functional.interpolate(cosines, size=tokens.grid, mode="bilinear", align_corners=False)
    values = class_values(cosines.transpose(0, 1), windows.owners, options.logit_scale)[-count:].transpose(0, 1)
    low, high = (extreme(values, dim=(1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    together = (values - low) / (1e-7 + high - low)  # of all classes of a window, not each by its own
    transitions = transition_matrix(mean_attention(tokens.attention, len(tokens.attention)))
    refined = torch.stack(refine(transitions, list(together), BOX_THRESHOLD))
    shown = redundancy(values, refined) > options.redundancy
    refined = refined * shown[..., None, None]
    return torch.cat([together, refined * told_apart(clip, options, windows, refined)[..., None, None]], dim=1)


def told_apart(clip: Clip, options: FreeCpSettings, windows: Windows, refined: Tensor) -> Tensor:
    """(M, C) bool: the classes that stay where refined maps (M, C, h, w) of several are nearly the same.

    CLIP looks at the boxes of such a group's mean map; a class that wins none of them goes. Without boxes all stay.
    """
    import torch

    from pipeline.steps.affinity import boxes
    from pipeline.steps.purification import groups, overlaps
    from pipeline.steps.tensors import to_numpy

    assert options.ambiguity is not None
    joined = overlaps(refined) >= options.ambiguity
    patch, crops, asked = clip.patch_size, [], []
    for index, pairs in enumerate(joined & (refined.amax(dim=(2, 3)) > 0)[:, :, None]):
        for group in groups(pairs):
            mean = to_numpy(refined[index, group].mean(dim=0))
            for box in boxes(mean, BOX_THRESHOLD):
                top, left, bottom, right = (side * patch for side in box)
                if bottom > top and right > left:
                    crops.append(windows.images[index, :, top:bottom, left:right])
                    asked.append((index, group))
    stay = torch.ones_like(refined[:, :, 0, 0], dtype=torch.bool)
    for index, group in asked:
        stay[index, group] = False
    groups_asked = [group for _, group in asked]
    for (index, _), best in zip(asked, best_classes(clip, crops, windows, groups_asked, stay.shape[1])):
        stay[index, best] = True
    return stay


def best_classes(
    clip: Clip, crops: Sequence[Tensor], windows: Windows, asked: Sequence[Sequence[int]], count: int
) -> Sequence[int]:
    """For each crop (3, h, w) the one of its `asked` classes whose words CLIP's image feature is nearest to.

    count  of all classes
    """
    import torch
    from torch.nn import functional as F

    from clip.vision import last_block_of_class_token
    from pipeline.steps.dense_attention import run_blocks

    if not crops:
        return []
    patch = clip.patch_size
    side = max(1, round(clip.visual.image_size / 2 / patch)) * patch  # 112, where the model was trained with 224
    cosines: list[list[float]] = []
    for start in range(0, len(crops), CROPS):
        part = [
            F.interpolate(crop[None], size=(side, side), mode="bilinear", align_corners=False)
            for crop in crops[start : start + CROPS]
        ]
        tokens = run_blocks(clip.visual, torch.cat(part), "bicubic", precision=windows.precision)
        features = last_block_of_class_token(clip.visual, tokens.last_input)
        cosines += (F.normalize(features, dim=-1) @ windows.text.T).tolist()
    first = max(windows.owners) + 1 - count  # of the classes; before them is the background, where there is one
    found = []
    for row, group in zip(cosines, asked):
        best = {
            index: max(value for value, owner in zip(row, windows.owners) if owner == index + first) for index in group
        }
        found.append(max(best, key=lambda index: best[index]))
    return found


METHOD = Method(
    maps,
    FreeCpSettings,
    complete,
    partial(words_of, WORDS),
    preparation,
    kind=lambda options: "cam",
    unlabelled=True,
)
