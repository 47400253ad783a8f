"""Images and captions in tar files as img2dataset writes them, read one after the other (webdataset).

A sample of a shard has one name with several endings: jpg, png or webp; txt, or json with `caption`; and, where
scripts/superpixels.py was at work, superpixels.png. The order of an epoch depends on the seed and the epoch alone: the
shards in a random order, cut into an equal part for each process, and the next sample drawn among the next `shuffle`
ones. A run that is taken up reads the beginning of the epoch again, without decoding the images.
"""

import glob
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from common.errors import UserError, in_short
from dataset.text_files import parse_json, read_text
from segclip.training.captions import Problem
from segclip.training.samples import MOST_UNREADABLE, Batch, Source, Views, collate, first_readable
from segclip.training.settings import Settings
from training.batches import Counted

IMAGES = ("jpg", "jpeg", "png", "webp")
SUPERPIXELS = "superpixels.png"
RECORD = "__made_by__"  # the first member of a shard of ours; webdataset passes over such names
EXPECTED = "a tar file as img2dataset writes it: 000000.jpg, 000000.txt, ..."
REMEDY = "download or write it again"

_SHARDS, _DRAWN, _CROPS = range(10, 13)  # what a random number is for; segclip.training.samples takes others


@dataclass(frozen=True)
class Shard:
    """A tar file and how many samples it holds."""

    path: Path
    samples: int


def holds_shards(given: Sequence[str]) -> bool:
    """Whether a name of `--data` stands for tar files: it ends so, or is a folder with some."""
    return any(name.endswith(".tar") or any(Path(name).glob("*.tar")) for name in given)


def find_shards(given: Sequence[str]) -> list[Path]:
    """The tar files that are named, lie in a folder that is named, or fit a pattern (*, {00..17}); each once, sorted.

    Raises UserError for a name to which there is no file.
    """
    paths: dict[Path, None] = {}
    for name in given:
        found = sorted(path for pattern in _expanded(name) for path in _matching(pattern))
        if not found:
            raise UserError(f"--data {name}: no tar file; expected {EXPECTED}")
        paths.update(dict.fromkeys(found))
    return list(paths)


def _expanded(name: str) -> list[str]:
    import braceexpand

    try:
        return list(braceexpand.braceexpand(name))
    except ValueError as error:
        raise UserError(
            f"--data {name}: braces that do not fit ({error}); expected such as {{000..017}}.tar"
        ) from error


def _matching(pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        return list(Path(pattern).glob("*.tar"))
    return [Path(path) for path in glob.glob(pattern) if Path(path).is_file()]  # noqa: PTH207 - of any folder


def counted(paths: Sequence[Path]) -> tuple[list[Shard], list[Problem]]:
    """The shards that hold samples, and what is wrong with the others.

    Counts are those of img2dataset's NAME_stats.json beside a shard, else its headers are read.
    Raises UserError when no shard can be used.
    """
    shards, problems = [], []
    for path in paths:
        try:
            if samples := _stated(path) or _count(path):
                shards.append(Shard(path, samples))
            else:
                problems.append((path.name, f"{path}: an empty tar; expected {EXPECTED}"))
        except UserError as error:
            problems.append((path.name, str(error)))
    if not shards:
        raise UserError(f"nothing to train on: {problems[0][1]}")
    return shards, problems


def _stated(path: Path) -> int:
    stats = path.with_name(f"{path.stem}_stats.json")
    if not stats.is_file():
        return 0
    expected = "img2dataset's statistics"
    content = parse_json(stats, read_text(stats, expected), expected)
    return int(content.get("successes", 0)) if isinstance(content, dict) else 0


def _count(path: Path) -> int:
    names = set()
    try:
        with tarfile.open(path) as archive:
            try:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    if member.isfile() and not member.name.startswith(RECORD[:2]):
                        names.add((folder, name.partition(".")[0]))
            except tarfile.TarError:  # cut short: it is reported when its end is met
                pass
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path}: a broken tar ({in_short(error)}); {REMEDY}") from error
    return len(names)


def raw_samples(path: Path, problems: list[Problem]) -> Iterator[dict[str, Any]]:
    """The samples of a shard as webdataset gives them: `__key__` and the bytes of each ending.

    What is wrong with the file is added to `problems`, once.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def broken(error: Exception) -> bool:
        problem = (path.name, f"{path}: a broken tar ({in_short(error.args[0] if error.args else error)}); {REMEDY}")
        if problem[0] not in dict(problems):
            problems.append(problem)
        return True

    try:
        with path.open("rb") as stream:
            files = tar_file_expander([{"url": str(path), "stream": stream}], handler=broken)
            yield from group_by_keys(files, handler=broken)
    except OSError as error:
        broken(error)


def source_of_sample(path: Path, sample: Mapping[str, Any], problems: list[Problem]) -> Source | None:
    """A sample's image and caption; None when one is missing, which is added to `problems`."""
    name = f"{path.name}/{sample['__key__']}"
    ending = next((ending for ending in IMAGES if ending in sample), None)
    if ending is None:
        problems.append((name, f"{path}: {sample['__key__']} has no image ({', '.join(IMAGES)})"))
        return None
    caption = _caption(sample)
    if not caption.strip():
        problems.append(
            (name, f"{path}: {sample['__key__']} has an empty caption, or none (txt, or json with caption)")
        )
        return None
    inside = path / f"{sample['__key__']}.{ending}"
    if SUPERPIXELS not in sample:
        return Source(name, inside, caption, image_data=sample[ending])
    ids = path / f"{sample['__key__']}.{SUPERPIXELS}"
    return Source(name, inside, caption, ids, sample[ending], sample[SUPERPIXELS])


def _caption(sample: Mapping[str, Any]) -> str:
    if "txt" in sample:
        return sample["txt"].decode("utf-8", "replace")
    try:
        caption = json.loads(sample.get("json", b"{}"))["caption"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return caption if isinstance(caption, str) else ""


@dataclass(frozen=True)
class Part:
    """The samples of a shard that belong to a process: from `first` on, before `end`."""

    path: Path
    first: int
    end: int


def parts_of_epoch(shards: Sequence[Shard], seed: int, epoch: int, rank: int, ranks: int) -> list[Part]:
    """The parts of one process in an epoch: the shards in a random order, cut into equal numbers of samples."""
    order = np.random.default_rng([seed, _SHARDS, epoch]).permutation(len(shards))
    total = sum(shard.samples for shard in shards)
    begin, end = (total * index // ranks for index in (rank, rank + 1))
    parts, before = [], 0
    for index in order:
        shard = shards[index]
        first, last = max(begin - before, 0), min(end - before, shard.samples)
        if first < last:
            parts.append(Part(shard.path, first, last))
        before += shard.samples
    return parts


class _Stream(IterableDataset):
    """The batches of one process from a batch number on, without end. Each reader decodes every n-th of them."""

    def __init__(self, shards: Sequence[Shard], views: Views, settings: Settings, rank: int, first: int) -> None:
        self.shards, self.views, self.settings, self.rank, self.first = list(shards), views, settings, rank, first

    def __iter__(self) -> Iterator[Batch]:
        reader = get_worker_info()
        number, readers = (reader.id, reader.num_workers) if reader else (0, 1)
        first_epoch, begun = divmod(self.first, self.settings.epoch)
        for epoch in count(first_epoch):
            problems: list[Problem] = []
            batches = self._batches(epoch, problems)
            for place, sources in enumerate(batches):
                position = epoch * self.settings.epoch + place
                if (epoch > first_epoch or place >= begun) and (position - self.first) % readers == number:
                    yield self._decoded(position, sources, problems)
                    problems.clear()

    def _batches(self, epoch: int, problems: list[Problem]) -> Iterator[list[list[Source]]]:
        """The batches of an epoch: for each sample its source, and others to take its place."""
        rng = np.random.default_rng([self.settings.seed, _DRAWN, epoch, self.rank])
        sources, share = self._sources(epoch, problems), self.settings.epoch * self.settings.batch
        waiting = list(islice(sources, min(self.settings.shuffle, share)))
        left = share - len(waiting)
        for _ in range(self.settings.epoch):
            batch = []
            for _ in range(self.settings.batch):
                chosen = int(rng.integers(len(waiting)))
                batch.append(waiting[chosen])
                waiting[chosen] = next(sources) if left else waiting[-1]
                if not left:
                    waiting.pop()
                left = max(0, left - 1)
            yield [[one, *(waiting + batch)[:MOST_UNREADABLE]] for one in batch]

    def _sources(self, epoch: int, problems: list[Problem]) -> Iterator[Source]:
        """This process's samples, again and again: those that cannot be used are made up for by others."""
        parts = parts_of_epoch(self.shards, self.settings.seed, epoch, self.rank, self.settings.ranks)
        while True:
            found = 0
            for part in parts:
                for place, sample in enumerate(raw_samples(part.path, problems)):
                    if part.first <= place < part.end and (source := source_of_sample(part.path, sample, problems)):
                        found += 1
                        yield source
                    if place + 1 >= part.end:
                        break
            if not found:
                reason = problems[0][1] if problems else f"{parts[0].path}: no sample in it"
                raise UserError(f"no sample of epoch {epoch + 1} can be used: {reason}")

    def _decoded(self, position: int, sources: Sequence[Sequence[Source]], problems: Sequence[Problem]) -> Batch:
        place = [self.settings.seed, _CROPS, position, self.rank]
        samples = [
            first_readable(alternatives, self.views, np.random.default_rng([*place, index]))
            for index, alternatives in enumerate(sources)
        ]
        batch = collate(samples)
        return Batch(batch.images, batch.tokens, batch.ids, (*problems, *batch.problems))


class ShardBatches(Counted):
    """The batches of one process; every reader reads all its shards, and decodes its part of the batches."""

    def __init__(
        self, shards: Sequence[Shard], views: Views, settings: Settings, rank: int, readers: int = 0, pin: bool = False
    ) -> None:
        super().__init__(readers, pin)
        self.shards, self.views, self.settings, self.rank = shards, views, settings, rank

    def loader(self, **how: Any) -> DataLoader:
        stream = _Stream(self.shards, self.views, self.settings, self.rank, self.yielded)
        return DataLoader(stream, batch_size=None, **how)
