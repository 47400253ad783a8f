"""What a CAM method is, and the settings that all of them share.

The files of this folder import torch inside their functions only: `--help` reads their options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.arguments import option, positive, scale

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.steps.regions import RegionMaps, Regions
    from zsseg.proposals.proposer import Photo, Proposer

    MapPair = tuple[Tensor, Tensor]
    MapsOf = Callable[[Clip, Tensor, Sequence[Sequence[int]], "TextSet", "CamSettings"], list[MapPair]]
    ScoresOf = Callable[[Clip, Tensor, "TextSet", "CamSettings"], Tensor]
    Scene = tuple[Photo, Regions | None]  # without regions where a network will propose them
    Labels = Sequence[Sequence[int]]
    Seen = tuple[Any, ...]  # of one image
    LookAt = Callable[[Clip, Tensor, Labels, "TextSet", "CamSettings"], list[Seen]]
    RegionMapsOf = Callable[[Clip, Sequence[Scene], Labels, "TextSet", "CamSettings"], list[RegionMaps]]
else:
    MapPair = tuple  # without torch


@dataclass(frozen=True)
class SharedSettings:
    """The settings of every method; their help says what they are."""

    scales: tuple[float, ...] = option((1.0,), "test-time scales; 1.0 is always used", type=scale, many=True)
    flip: bool = option(False, "average with the mirrored image")
    max_side: int = option(1024, "larger images are shrunk to this for CLIP, masks are not", type=positive)
    precision: str = option(
        "float32",
        "of all blocks but the last, which is float32; the others are for GPUs",
        choices=("float32", "bfloat16", "float16"),
    )
    compile: bool = option(False, "torch.compile these blocks; pays on long runs on a GPU")


@dataclass(frozen=True)
class CamSettings(SharedSettings):
    """The settings of a run: the shared ones, which method, and the settings that only this method has.

    options  an instance of the method's own settings class; None: that class's defaults
    """

    method: str = "clip-es"
    options: Any = None

    @property
    def augmented(self) -> bool:
        return self.flip or self.scales != (1.0,)

    def record(self) -> dict[str, Any]:
        """All of them as one flat JSON object, for the record of a CAM file."""
        shared = {key: value for key, value in asdict(self).items() if key != "options"}
        return {**shared, **(asdict(self.options) if self.options is not None else {})}


@dataclass(frozen=True)
class TextSet:
    """foreground (K, E) and background (b, E) unit text embeddings, on CLIP's device.

    counts  how many rows each of the K classes has, where a class may have several (`Words.separate`); (): one
    """

    foreground: Tensor
    background: Tensor
    counts: tuple[int, ...] = ()

    def words_of(self, present: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The rows (Q, E) of the background and these classes, and which each belongs to.

        0 is the background, then come the classes, from 1 on; from 0 on without background rows.
        """
        import torch

        rows, owners = self.rows_of(present)
        return torch.cat([self.background, self.foreground])[rows], owners

    def rows_of(self, present: Sequence[int]) -> tuple[list[int], list[int]]:
        """The same rows by their numbers, those of the background first, then those of all classes."""
        counts, words = self.counts or (1,) * len(self.foreground), len(self.background)
        first = 1 if words else 0
        chosen = [(words + sum(counts[:label]), counts[label], first + index) for index, label in enumerate(present)]
        rows = [row for start, count, _ in chosen for row in range(start, start + count)]
        owners = [owner for _, count, owner in chosen for _ in range(count)]
        return [*range(words), *rows], [0] * words + owners


def by_labels(labels: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """The images of a batch that have the same labels, by these labels."""
    together: dict[tuple[int, ...], list[int]] = {}
    for index, present in enumerate(labels):
        together.setdefault(tuple(present), []).append(index)
    return together


def no_grid(*_: Any) -> list[MapPair]:
    """The `maps` of a method that classifies regions."""
    raise NotImplementedError("a method that classifies regions looks at no whole image")


@dataclass(frozen=True)
class RegionMethod:
    """What a method needs that classifies regions of photos, and does not look at whole images.

    maps       photos, their regions and each one's classes to the maps of each
    proposers  the ways to propose regions, by the values of its option --proposals. The settings of the chosen one,
               which have options of their own, are the field `proposer` of the method's settings
    """

    maps: RegionMapsOf
    proposers: Mapping[str, Proposer]

    def proposer(self, options: Any) -> Proposer:
        """The chosen one, by the method's settings."""
        return self.proposers[options.proposals]


@dataclass(frozen=True)
class LateSteps:
    """The last steps of a method, which are quick: people move their settings and look (pipeline/stages/one_photo.py).

    look    as the method's `maps`, but returns for each image what these steps work on
    finish  that, for B images, and the settings to their B pairs of maps; `maps` is `finish(look(...))`
    names   the fields of the method's settings that only `finish` reads, shares from 0 to 1
    """

    look: LookAt
    finish: Callable[[Sequence[Seen], CamSettings], list[MapPair]]
    names: tuple[str, ...]

    def maps(
        self, clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
    ) -> list[MapPair]:
        return self.finish(self.look(clip, images, labels, text, settings), settings)


@dataclass(frozen=True)
class Method:
    """A CAM method: how maps are made, and what it wants of its surroundings.

    maps         a batch (B, 3, h*p, w*p) and each image's classes to B pairs (cam, attn) of (k_i, h, w) maps, before
                 and after the affinity; behind them, where it makes some and keeps them, groups (h, w)
    settings     the dataclass of its own settings, whose fields are its options (common/arguments.py)
    complete     its settings with the choices that depend on the model and the data set
    words        the names of each class, then each background word, and the templates that they go into
    preparation  how it wants its images
    kind         what the values of its maps are; one of pipeline.steps.kinds.KINDS
    scores       of a method that scores every patch for itself: maps of all classes of the text (B, K, h, w), without
                 affinity and test-time augmentation. Such a method needs no labels
    resnets      whether it can do with a CLIP whose image tower is a ResNet
    load         loads the model that it runs in a CLIP's place, given a stage's ModelSource and a device
    unlabelled   scores all classes by itself, so that it needs no labels; so do methods with `scores`
    regions      of a method that classifies regions, whose `maps` are `no_grid`
    late         its last steps, where people can move their settings
    """

    maps: MapsOf
    settings: type
    complete: Callable[[Clip, DatasetSpec, Any], Any]
    words: Callable[[DatasetSpec, Any], Words]
    preparation: Callable[[Clip, Any], Preparation]
    kind: Callable[[Any], str]
    scores: ScoresOf | None = None
    resnets: bool = False
    load: Callable[[Any, Any], Clip] | None = None
    unlabelled: bool = False
    regions: RegionMethod | None = None
    late: LateSteps | None = None

    @property
    def needs_labels(self) -> bool:
        """Whether someone has to say which classes an image shows."""
        return self.scores is None and not self.unlabelled
