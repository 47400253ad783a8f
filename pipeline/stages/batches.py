"""How the list of images is cut into batches of one patch grid, and how a batch is read."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from clip.image import AS_CLIP_ES, Preparation, patch_grid, prepare_image
from common.errors import StopRun, UserError
from common.images import image_size, read_image
from common.outcome import Outcome
from common.provenance import source_of
from dataset.spec import Sample

if TYPE_CHECKING:
    from pipeline.methods.method import MapPair

BATCH_ATTENTION = 32 * 1024**2  # (h*w)^2 of a batch: 32 images of 512 x 512 pixels at patch 16
WINDOW = 128  # images among which batches of one patch grid are formed; bounds how far the order can shift


@dataclass
class Batch:
    """Samples of one patch grid, their tensors once read, and what already became of some of them.

    images, sizes, sources, maps  one a sample, once there are any; a source is an image's identity
    notes        by id, what people should know of how the maps were made
    outcomes     of samples that are no longer among `samples`
    """

    samples: list[Sample]
    images: list[torch.Tensor] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    maps: "list[MapPair]" = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


def failure(sample: Sample, error: Exception) -> Outcome:
    """What an error made of an image: a UserError speaks for itself, of others the type and the message are told."""
    words = str(error) if isinstance(error, UserError) else f"{sample.image}: {type(error).__name__}: {error}"
    return Outcome(sample.id, "failed", " ".join(words.split()))


@dataclass(frozen=True)
class Reader:
    """Reads and prepares the images of a batch; those that cannot be read become outcomes. Small, for other processes.

    patch_size, max_side  as of the job
    how                   the method wants its images
    """

    patch_size: int
    max_side: int
    how: Preparation = AS_CLIP_ES

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of an image of (H, W) pixels."""
        return patch_grid(size, self.patch_size, self.max_side, self.how)

    def __call__(self, batch: Batch) -> Batch:
        readable = []
        for sample in batch.samples:
            try:
                size, source, image = self._read(sample)
            except StopRun:
                raise
            except Exception as error:  # of one image; it must not cost the others
                batch.outcomes.append(failure(sample, error))
                continue
            readable.append(sample)
            batch.sizes.append(size)
            batch.sources.append(source)
            batch.images.append(image)
        batch.samples = readable
        return batch

    def _read(self, sample: Sample) -> tuple[tuple[int, int], str, torch.Tensor]:
        size, source = image_size(sample.image), source_of(sample.image)
        height, width = (side * self.patch_size for side in self.grid(size))
        image = read_image(sample.image, enough=(height, width))
        return size, source, prepare_image(image, self.patch_size, self.max_side, self.how)


def plan(reader: Reader, batch_size: int, samples: Sequence[Sample]) -> Iterator[Batch]:
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
            except StopRun:
                raise
            except Exception as error:
                unreadable.outcomes.append(failure(sample, error))
        yield unreadable
        for grid, members in grids.items():
            size = batch_size_for(grid, batch_size)
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
