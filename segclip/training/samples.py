"""The training samples of a run: a crop, its superpixels and the tokens of a caption; their order, and batches.

A sample depends on the seed and its position in the run alone, so that a run can go on from anywhere, with any number
of processes that read, and sees the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clip.image import MEAN, STD
from common.errors import UserError
from common.images import read_at
from segclip.training.captions import Pair, Problem, caption_tokens
from segclip.training.settings import Settings
from segclip.training.superpixels import patch_ids, read_ids, superpixels
from segclip.training.views import cut_out, random_crop, stored
from training.batches import shuffled

MOST_UNREADABLE = 20  # samples in a row, after which the run ends

_VIEW = 1  # what a random number is for; training.batches, training.loop and segclip.training.shards take others


@dataclass(frozen=True)
class Views:
    """What is made of an image: the parts of the settings that say it, and the patch of the network."""

    side: int
    patch: int
    areas: tuple[float, float]
    rule: str
    superpixels: bool
    max_words: int

    @classmethod
    def of(cls, settings: Settings, patch: int) -> "Views":
        return cls(settings.side, patch, settings.areas, settings.patch_rule, settings.superpixels, settings.max_words)


@dataclass(frozen=True)
class Source:
    """An image with a caption, before it is read: files, or the bytes of an archive's members.

    superpixels  the file of its map, or the map's name in the archive; None: to be made
    """

    id: str
    image: Path
    caption: str
    superpixels: Path | None = None
    image_data: bytes | None = None
    superpixels_data: bytes | None = None


@dataclass(frozen=True)
class Sample:
    """One pair.

    image   (3, S, S) uint8
    tokens  (L,) int64, padded with zeros
    ids     (N,) int64, the superpixel of each patch; zeros where they are not asked for
    """

    image: np.ndarray
    tokens: np.ndarray
    ids: np.ndarray
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Batch:
    """B samples, and what could not be read.

    images (B, 3, S, S) uint8; tokens (B, L) int64, cut behind the last end; ids (B, N) int64
    """

    images: Tensor
    tokens: Tensor
    ids: Tensor
    problems: tuple[Problem, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        tensors = {name: getattr(self, name).to(device, non_blocking=True) for name in ("images", "tokens", "ids")}
        return replace(self, **tensors)


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of samples. Tokens behind the longest caption's end are left out: none before can see them."""
    images, tokens, ids = (
        torch.from_numpy(np.stack([getattr(sample, name) for sample in samples])) for name in ("image", "tokens", "ids")
    )
    used = int((tokens != 0).sum(1).max())
    problems = tuple(problem for sample in samples for problem in sample.problems)
    return Batch(images, tokens[:, :used], ids, problems)


def normalised(images: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 to float32 with CLIP's mean and deviation."""
    mean, deviation = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / deviation


def read_sample(source: Source, views: Views, rng: np.random.Generator) -> Sample:
    """A random crop of an image; raises UserError, naming the file, for what cannot be read."""
    image = stored(read_at(source.image, lambda size: size, source.image_data), views.side)
    size = (image.height, image.width)
    crop = random_crop(rng, size, views.areas)
    ids = np.zeros((views.side // views.patch) ** 2, np.int64)
    if views.superpixels:
        ids = patch_ids(_superpixels(source, image), crop.corners(size), views.side, views.patch, views.rule)
    pixels = cut_out(image, crop, views.side).transpose(2, 0, 1)
    return Sample(np.ascontiguousarray(pixels), np.array(caption_tokens(source.caption, views.max_words)), ids)


def _superpixels(source: Source, image: Image.Image) -> np.ndarray:
    if source.superpixels is None:
        return superpixels(np.asarray(image))
    return read_ids(source.superpixels, (image.height, image.width), source.superpixels_data)


def first_readable(sources: Sequence[Source], views: Views, rng: np.random.Generator) -> Sample:
    """The first sample that can be read, with the problems of those before; raises UserError when there is none."""
    problems: list[Problem] = []
    for source in sources:
        try:
            return replace(read_sample(source, views, rng), problems=tuple(problems))
        except UserError as error:
            problems.append((source.id, str(error)))
    raise UserError(f"{len(problems)} samples in a row cannot be read; the last: {problems[-1][1]}")


class Samples(Dataset):
    """The sample at each position of a run: every pair of a folder once an epoch, in an order of the epoch's own.

    maps  the folder of the maps of superpixels, <id>.png; None: they are made when they are needed

    In the place of one that cannot be read comes another, which depends on the position too.
    """

    def __init__(self, pairs: Sequence[Pair], views: Views, settings: Settings, maps: Path | None) -> None:
        self.pairs, self.views, self.seed, self.maps = list(pairs), views, settings.seed, maps
        self.used = settings.epoch * settings.batch * settings.ranks  # of an epoch's order

    def source(self, index: int) -> Source:
        pair = self.pairs[index]
        return Source(pair.id, pair.image, pair.caption, self.maps / f"{pair.id}.png" if self.maps else None)

    def __getitem__(self, position: int) -> Sample:
        epoch, place = divmod(position, self.used)
        rng = np.random.default_rng([self.seed, _VIEW, position])
        first = self.source(shuffled(self.seed, epoch * len(self.pairs) + place, len(self.pairs)))
        others = np.random.default_rng([self.seed, _VIEW, position, 1]).integers(len(self.pairs), size=MOST_UNREADABLE)
        return first_readable([first, *map(self.source, others)], self.views, rng)
