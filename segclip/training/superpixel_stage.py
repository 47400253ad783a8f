"""The loop of scripts/superpixels.py: images -> maps of superpixels; shards -> shards with the maps in them."""

import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tarfile import TarInfo
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import atomic_write, check_output
from common.images import opened, read_at, read_image
from common.outcome import Outcome
from common.provenance import MOST_RECORD, SOURCE, can_stay, parse_record, record_text, source_of
from common.version import VERSION
from dataset.spec import Sample
from pipeline.stages.batches import Batch
from pipeline.stages.failure import failure
from segclip.training.captions import Problem
from segclip.training.shards import IMAGES, RECORD, SUPERPIXELS, raw_samples
from segclip.training.superpixels import SETTINGS, encode_ids, superpixels, write_ids
from segclip.training.views import stored

FORMAT = 1  # of the record in a map
REMEDY = "pass --overwrite or another --out"


@dataclass(frozen=True)
class MapJob:
    """The maps of the images of a folder, <out>/<id>.png; or, of shards, their copies <out>/<name> with maps.

    side  images are stored with this shorter side at most
    """

    out: Path
    side: int
    shards: bool = False
    overwrite: bool = False

    def settings(self) -> dict[str, Any]:
        """What all maps of a run have in common."""
        return {"format": FORMAT, "code": VERSION, "side": self.side, **SETTINGS}


def worker(number: int, job: MapJob) -> Callable[[Iterable[Batch]], Iterator[Outcome]]:
    """The work of a process on batches of images, or of shards."""
    return lambda batches: run_batches(job, batches)


def run_batches(job: MapJob, batches: Iterable[Batch]) -> Iterator[Outcome]:
    """Make the maps of all samples; one outcome each, in order."""
    make = _copy_shard if job.shards else _make_map
    for batch in batches:
        for sample in batch.samples:
            try:
                yield make(job, sample)
            except Exception as error:
                yield failure(sample.id, error, sample.image)


def _make_map(job: MapJob, sample: Sample) -> Outcome:
    target = check_output(job.out / f"{sample.id}.png", job.out)
    record = {**job.settings(), SOURCE: source_of(sample.image)}
    if not job.overwrite and target.is_file() and can_stay(target, _record(target), record, REMEDY):
        return Outcome(sample.id, "kept")
    write_ids(target, superpixels(np.asarray(stored(read_image(sample.image), job.side))), record_text(record))
    return Outcome(sample.id, "made")


def _record(path: Path) -> dict[str, Any]:
    """How a map was made; empty for a file that is none, or damaged."""
    try:
        with opened(path, ("PNG",), "map of superpixels") as image:
            text = image.info.get("made_by", "")
            image.verify()
        return parse_record(str(text))
    except (UserError, ValueError):
        return {}


def _copy_shard(job: MapJob, sample: Sample) -> Outcome:
    """A shard's copy, whole or not at all. Its images that cannot be read get no map, and are counted in the note."""
    from webdataset import TarWriter

    target = check_output(job.out / sample.image.name, job.out)
    if target.exists() and target.samefile(sample.image):
        raise UserError(f"{target}: the shard itself; choose another --out")
    record = {**job.settings(), SOURCE: source_of(sample.image)}
    if not job.overwrite and target.is_file() and can_stay(target, _record_of_shard(target), record, REMEDY):
        return Outcome(sample.id, "kept")
    problems: list[Problem] = []
    unreadable = 0
    with atomic_write(target) as stream:
        with TarWriter(stream, encoder=False, mtime=0) as writer:
            text = record_text(record).encode()
            entry = TarInfo(RECORD)
            entry.size = len(text)
            writer.tarstream.addfile(entry, BytesIO(text))
            for members in raw_samples(sample.image, problems):
                unreadable += not _add_map(job, sample.image, members)
                writer.write(members)
        if problems:
            raise UserError(problems[0][1])
    stats = sample.image.with_name(f"{sample.image.stem}_stats.json")
    if stats.is_file():
        with atomic_write(target.with_name(stats.name)) as stream:
            stream.write(stats.read_bytes())
    return Outcome(sample.id, "made", note=f"{unreadable} images in it got no superpixels" if unreadable else "")


def _record_of_shard(path: Path) -> dict[str, Any]:
    """How a copy was made; empty for another file."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            stream = archive.extractfile(first) if first is not None and first.name == RECORD else None
            return parse_record(stream.read(MOST_RECORD).decode()) if stream else {}
    except (tarfile.TarError, OSError, ValueError):
        return {}


def _add_map(job: MapJob, shard: Path, members: dict[str, Any]) -> bool:
    """Add the map of a sample's image to its members; whether that was possible."""
    ending = next((ending for ending in IMAGES if ending in members), None)
    if ending is None:
        return False
    try:
        name = shard / f"{members['__key__']}.{ending}"
        image = stored(read_at(name, lambda size: size, members[ending]), job.side)
    except UserError:
        return False
    members[SUPERPIXELS] = encode_ids(superpixels(np.asarray(image)))
    return True
