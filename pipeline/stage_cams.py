"""The loop of generate_cams.py: images are read beside the model, maps are written beside it.

May import every step, clip, dataset and common.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip.load import Clip
from clip.text import fill_template
from clip.text_cache import cached_prompts
from common.console import Outcome
from common.errors import UserError
from common.images import image_size
from common.parallel import ordered_map
from dataset.spec import DatasetSpec, Sample
from pipeline.batches import Batch, Reader, plan
from pipeline.maps import Cams, to_numpy
from pipeline.methods import CamSettings, TextSet, compute_maps
from pipeline.readers import in_processes
from pipeline.storage import read_arrays, save_cams, spec_fingerprint

FORMAT = 1  # of the CAM file; part of its record


@dataclass(frozen=True)
class CamJob:
    """Everything that is the same for all images of a run."""

    clip: Clip
    text: TextSet
    settings: CamSettings
    out_dir: Path
    made_by: dict[str, Any]
    full_size: bool = False
    batch_size: int = 1

    @property
    def reader(self) -> Reader:
        return Reader(self.clip.patch_size, self.settings.max_side)

    def path(self, image_id: str) -> Path:
        return self.out_dir / f"{image_id}.npz"


def text_set(clip: Clip, spec: DatasetSpec) -> TextSet:
    """Text embeddings of a data set's classes and background prompts."""
    groups = [*spec.prompts, *((prompt,) for prompt in spec.background_prompts)]
    embeddings = cached_prompts(clip, fill_template(spec.template, groups))
    return TextSet(embeddings[: len(spec.prompts)], embeddings[len(spec.prompts) :])


def record(clip: Clip, spec: DatasetSpec, settings: CamSettings, full_size: bool) -> dict[str, Any]:
    """What makes two CAM files comparable; stored in each."""
    return {
        "format": FORMAT,
        "dataset": spec.name,
        "model": clip.fingerprint,
        "activation": clip.activation,
        "prompts": spec_fingerprint(spec),
        "save": "highres" if full_size else "grid",
        **json.loads(json.dumps(asdict(settings))),
    }


def finished_ids(job: CamJob, samples: Iterable[Sample]) -> set[str]:
    """Ids whose CAM file is whole and made with the same settings and labels; damaged files count as missing.

    Raises UserError, showing the difference, when a file was made with other ones.
    """
    finished = set()
    for sample in samples:
        try:
            arrays = read_arrays(job.path(sample.id))
            made_by, keys = json.loads(str(arrays["made_by"])), arrays["keys"].ravel().tolist()
        except (UserError, KeyError, ValueError):
            continue
        if not isinstance(made_by, dict):
            continue
        _check_same(job.path(sample.id), made_by, job.made_by)
        if tuple(keys) != sample.labels:
            raise UserError(f"{job.path(sample.id)}: made for other labels; pass --overwrite or another --cam_out_dir")
        if _same_size(sample.image, arrays):
            finished.add(sample.id)
    return finished


def _same_size(image: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Whether the image still has the size its maps were made for; one that was replaced is worked on again."""
    try:
        made_for = arrays["size"] if "size" in arrays else np.array(arrays["attn_highres"].shape[1:])
        return tuple(made_for.tolist()) == image_size(image)
    except (UserError, KeyError):
        return False


def _check_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        detail = ", ".join(f"{key} {found.get(key)} (now {wanted[key]})" for key in differing)
        raise UserError(f"{path}: made with other settings: {detail}; pass --overwrite or another --cam_out_dir")


def run(
    job: CamJob, samples: Sequence[Sample], finished: set[str], threads: int = 2, readers: int = 0
) -> Iterator[Outcome]:
    """Make the missing CAM files; one outcome an image.

    threads  write, and read too where there are no readers
    readers  processes that read

    Batches are cut from the whole list, and one with anything missing is computed whole, so that a continued run
    writes the same bytes as an uninterrupted one.
    """
    computed = computed_batches(job, samples, finished, threads, readers)
    for batch in ordered_map(partial(_save, job, finished), computed, threads):
        yield from batch.outcomes


def computed_batches(
    job: CamJob, samples: Sequence[Sample], finished: set[str], threads: int, readers: int
) -> Iterator[Batch]:
    """Batches with their maps: planned and computed in the caller's thread, read beside it."""
    batches = plan(job.reader, job.batch_size, samples, finished)
    read = in_processes(job.reader, batches, readers) if readers else ordered_map(job.reader, batches, threads)
    return (compute_batch(job, batch) for batch in read)


def compute_batch(job: CamJob, batch: Batch) -> Batch:
    """The maps of a batch; its images are let go."""
    if batch.samples:
        images = torch.stack(batch.images).to(job.clip.device)
        labels = [sample.labels for sample in batch.samples]
        try:
            batch.maps = compute_maps(job.clip, images, labels, job.text, job.settings)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            reason = "not enough memory for its maps; pass a smaller --max_side or --batch_size 1"
            batch.outcomes += [Outcome(sample.id, "failed", f"{sample.image}: {reason}") for sample in batch.samples]
        batch.images = []
    return batch


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _save(job: CamJob, finished: set[str], batch: Batch) -> Batch:
    for sample, size, (cam, attn) in zip(batch.samples, batch.sizes, batch.maps):
        if sample.id in finished:
            batch.outcomes.append(Outcome(sample.id, "kept"))
            continue
        cams = Cams(np.array(sample.labels, np.int64), to_numpy(cam), to_numpy(attn), size)
        save_cams(job.path(sample.id), cams, job.made_by, job.full_size)
        batch.outcomes.append(Outcome(sample.id, "made"))
    return batch
