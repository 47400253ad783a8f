"""How the list of images is cut into batches of one patch grid, and how a batch is read."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip.image import AS_CLIP_ES, Preparation, patch_grid, prepare_image
from common.images import image_size, note_on, read_at, read_image
from common.outcome import Outcome
from common.provenance import source_of
from dataset.spec import Sample
from pipeline.stages.failure import failure
from pipeline.steps.regions import Regions
from zsseg.proposals.proposer import Photo, Propose

BATCH_ATTENTION = 32 * 1024**2  # (h*w)^2 of a batch: 32 images of 512 x 512 pixels at patch 16
WINDOW = 128  # images among which batches of one patch grid are formed; bounds how far the order can shift


@dataclass(frozen=True)
class BatchImage:
    """One image of a batch, from the file to its maps.

    size    (H, W) of the image in the file
    source  the image's identity when it was read (common/provenance.py)
    pixels  (3, h*p, w*p), the input of the model, or (3, H', W') where it is cut into windows; None once there are maps
    maps    (cam, attn), before and after the affinity, each (k, h, w), and behind them groups (h, w) where the method
            keeps them; or (maps, maps), both the same RegionMaps; empty until they are computed
    photo   in place of `pixels` for methods that classify regions; None once there are maps
    regions of the photo, where they are proposed while it is read
    of      the identity of the file that the regions were read from
    note    what people should know of the photo, and of how the maps were made
    """

    sample: Sample
    size: tuple[int, int]
    source: str
    pixels: torch.Tensor | None = None
    maps: tuple[Any, ...] = ()
    photo: Photo | None = None
    regions: Regions | None = None
    of: str = ""
    note: str = ""


@dataclass
class Batch:
    """Samples of one patch grid.

    images    those that could be read so far
    outcomes  of images that need no more work, or failed
    """

    samples: list[Sample]
    images: list[BatchImage] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


@dataclass(frozen=True)
class Reader:
    """Reads and prepares the images of a batch; those that cannot be read become outcomes. Small, for other processes.

    max_side     larger images are shrunk to this side
    preparation  how the method wants its images
    """

    patch_size: int
    max_side: int
    preparation: Preparation = AS_CLIP_ES

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of an image of (H, W) pixels."""
        return patch_grid(size, self.patch_size, self.max_side, self.preparation)

    def __call__(self, batch: Batch) -> Batch:
        for sample in batch.samples:
            try:
                size, source = image_size(sample.image), source_of(sample.image)
                cell = 1 if self.preparation.fit == "exact" else self.patch_size
                height, width = (side * cell for side in self.grid(size))
                image = read_image(sample.image, enough=(height, width))
                pixels = prepare_image(image, self.patch_size, self.max_side, self.preparation)
                batch.images.append(BatchImage(sample, size, source, pixels, note=note_on(image)))
            except Exception as error:
                batch.outcomes.append(failure(sample.id, error, sample.image))
        return batch


@dataclass(frozen=True)
class RegionReader:
    """The same for methods that classify regions: photos, and their regions where no network proposes them.

    propose  makes the regions of a photo; None: a network will, on its device
    source   the file that the regions of an id are read from; None: they are made
    """

    max_side: int
    propose: Propose | None = None
    source: Callable[[str], Path] | None = None
    preparation: Preparation = AS_CLIP_ES

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Photos of any size go together."""
        return (1, 1)

    def __call__(self, batch: Batch) -> Batch:
        for sample in batch.samples:
            try:
                source, of = source_of(sample.image), source_of(self.source(sample.id)) if self.source else ""
                photo, note = read_photo(sample, self.max_side)
                regions = self.propose(photo) if self.propose else None
                batch.images.append(
                    BatchImage(sample, photo.size, source, photo=photo, regions=regions, of=of, note=note)
                )
            except Exception as error:
                batch.outcomes.append(failure(sample.id, error, sample.image))
        return batch


def working_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """The size (h, w) at which a photo of (H, W) is worked on: the same, or with `max_side` as its longer side."""
    factor = min(1.0, max_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def read_photo(sample: Sample, max_side: int) -> tuple[Photo, str]:
    """A sample's photo as regions are looked for in it, and a note for people. Raises UserError for a bad one."""
    size = image_size(sample.image)
    image = read_at(sample.image, lambda whole: working_size(whole, max_side))
    return Photo(sample.id, np.asarray(image), size), note_on(image)


def plan(reader: Reader | RegionReader, batch_size: int, samples: Sequence[Sample]) -> Iterator[Batch]:
    """Cut the list into batches of one patch grid; images whose size cannot be read become outcomes.

    The batches depend on the list alone, and not on what is finished: files have the same bytes and parts of the list
    (common/shard.py) the same members, whenever a command is repeated.
    """
    for start in range(0, len(samples), WINDOW):
        grids: dict[tuple[int, int], list[Sample]] = {}
        unreadable = Batch([])
        for sample in samples[start : start + WINDOW]:
            try:
                grids.setdefault(reader.grid(image_size(sample.image)), []).append(sample)
            except Exception as error:
                unreadable.outcomes.append(failure(sample.id, error, sample.image))
        yield unreadable
        for grid, members in grids.items():
            size = batch_size if reader.preparation.fit == "exact" else batch_size_for(grid, batch_size)
            for first in range(0, len(members), size):
                yield Batch(members[first : first + size])


def with_work(batches: Iterable[Batch], finished: Collection[str]) -> Iterator[Batch]:
    """The same batches; one whose images are all finished is not worked on, and carries only their outcomes."""
    for batch in batches:
        if batch.samples and all(sample.id in finished for sample in batch.samples):
            yield Batch([], outcomes=[Outcome(sample.id, "kept") for sample in batch.samples])
        else:
            yield batch


def batch_size_for(grid: tuple[int, int], largest: int) -> int:
    """At most `largest` images, fewer where their attention, (h*w)^2 values each, would take too much memory."""
    return max(1, min(largest, BATCH_ATTENTION // (grid[0] * grid[1]) ** 2))
