"""The loop of generate_cams.py: images are read beside the model, maps are written beside it.

A `CamJob` says what is to be done. It is a value: other processes and machines get it and call `set_up`, which loads
the model.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip.device import pick_device
from clip.load import Clip, load_clip
from clip.text_cache import cached_prompts
from common.cores import available_cores
from common.errors import StopRun, UserError
from common.files import check_output
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import SOURCE, can_stay, source_of
from common.version import VERSION
from dataset.spec import DatasetSpec, Sample
from pipeline.files.cam_file import read_record, save_cams, spec_fingerprint
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS, compute_maps
from pipeline.stages.batches import Batch, Reader, failure, plan, with_work
from pipeline.stages.out_of_memory import Made, Room, Work
from pipeline.stages.readers import in_processes
from pipeline.steps.maps import Cams
from pipeline.steps.tensors import to_numpy

FORMAT = 3  # of the CAM file; part of its record
CHECKING = 8  # files that are looked at side by side to see what is finished
GPU_BATCH = 16  # images of one patch grid that go together on a GPU
REMEDY = "pass --overwrite or another --cam_out_dir"


@dataclass(frozen=True)
class ModelSource:
    """Which CLIP, and where it computes; arguments of clip.load.load_clip and clip.device.pick_device."""

    model: str
    pretrained: str | None = None
    activation: str = "auto"
    device: str = "auto"

    def load(self, worker: int = 0, resnets: bool = False) -> Clip:
        """The frozen CLIP on the worker's device. Raises UserError."""
        device = pick_device(self.device, worker)
        return load_clip(self.model, self.pretrained, device, self.activation, resnets)


@dataclass(frozen=True)
class CamJob:
    """What is to be done with every image of a run.

    spec        the classes and prompts
    settings    the method and its settings, as asked for; None where the model or the data set decides
    out_dir     where the CAM files go
    full_size   maps at the size of the image, with the reference's names
    batch_size  images of one patch grid that go together; None: 16 on a GPU, else 1
    readers     processes that read images; None: a few where a GPU waits for them, else threads
    folder      names the folder of the images where their ids come again in other folders
    plain_vit   a ResNet will not do, whatever the method (TagCLIP works on the same model)
    """

    spec: DatasetSpec
    model: ModelSource
    settings: CamSettings
    out_dir: Path
    full_size: bool = False
    batch_size: int | None = None
    readers: int | None = None
    folder: str = ""
    plain_vit: bool = False


@dataclass(frozen=True)
class CamWork:
    """A job on its device: the model, the text embeddings, and the settings with nothing left open.

    made_by  the record that the files of this run have in common
    room     what was learned of the device's memory
    """

    job: CamJob
    clip: Clip
    text: TextSet
    settings: CamSettings
    made_by: dict[str, Any]
    batch_size: int
    readers: int
    room: Room = field(default_factory=Room, compare=False, repr=False)

    @property
    def reader(self) -> Reader:
        how = METHODS[self.settings.method].preparation(self.clip, self.settings.options)
        return Reader(self.clip.patch_size, self.settings.max_side, how)

    @property
    def kind(self) -> str:
        """What the values of the maps are."""
        return METHODS[self.settings.method].kind(self.settings.options)

    def path(self, image_id: str) -> Path:
        return self.job.out_dir / f"{image_id}.npz"

    def record(self, source: str) -> dict[str, Any]:
        """The record of a CAM file."""
        return {**self.made_by, SOURCE: source}


def set_up(job: CamJob, worker: int = 0, processes: int = 1) -> CamWork:
    """Load the model on the worker's device and encode the prompts.

    worker     number of this process; spreads workers over the GPUs
    processes  that share this machine's cores
    Raises UserError for a model that cannot be loaded, or settings that do not fit it.
    """
    resnets = METHODS[job.settings.method].resnets and not job.plain_vit
    clip = job.model.load(worker, resnets)
    settings = completed(clip, job.spec, job.settings)
    made_by = _made_by(clip, job, settings)
    on_cpu = clip.device.type == "cpu"
    readers = job.readers
    if readers is None:
        readers = 0 if on_cpu else min(8, max(1, available_cores() // processes - 1))
    batch_size = job.batch_size or (1 if on_cpu else GPU_BATCH)
    return CamWork(job, clip, text_set(clip, job.spec, settings), settings, made_by, batch_size, readers)


def completed(clip: Clip, spec: DatasetSpec, settings: CamSettings) -> CamSettings:
    """The settings with the choices that depend on the model and the data set. Raises UserError for impossible ones."""
    method = METHODS[settings.method]
    options = method.settings() if settings.options is None else settings.options
    return replace(settings, options=method.complete(clip, spec, options))


def text_set(clip: Clip, spec: DatasetSpec, settings: CamSettings) -> TextSet:
    """Text embeddings of a data set's classes and background prompts, as the method asks for them."""
    embeddings = cached_prompts(clip, METHODS[settings.method].prompts(spec, settings.options))
    return TextSet(embeddings[: len(spec.prompts)], embeddings[len(spec.prompts) :])


def _made_by(clip: Clip, job: CamJob, settings: CamSettings) -> dict[str, Any]:
    """What makes two CAM files comparable; stored in each. Maps of another kind than "cam" say so."""
    kind = METHODS[settings.method].kind(settings.options)
    return {
        "format": FORMAT,
        "code": VERSION,
        "dataset": job.spec.name,
        "model": clip.fingerprint,
        "activation": clip.activation,
        "prompts": spec_fingerprint(job.spec),
        "save": "highres" if job.full_size else "grid",
        **settings.record(),
        **({} if kind == "cam" else {"kind": kind}),
        **({"images": job.folder} if job.folder else {}),
    }


# --- what is there already ------------------------------------------------------------------------


def finished_ids(work: CamWork, samples: Iterable[Sample]) -> set[str]:
    """Ids whose CAM file is whole and made with the same settings, labels and image.

    Damaged files, and those of images that were replaced, count as missing. Raises UserError, showing the difference,
    when a file was made with other settings or for other labels.
    """
    checked = ordered_map(partial(_is_finished, work), samples, CHECKING, ahead=16)
    return {image_id for image_id, finished in checked if finished}


def _is_finished(work: CamWork, sample: Sample) -> tuple[str, bool]:
    path = work.path(sample.id)
    try:
        found, source = read_record(path), source_of(sample.image)
    except UserError:  # missing or damaged; an image that cannot be read will say so
        return sample.id, False
    if len(found) == 1:  # foreign, as it does not say how it was made: made again
        return sample.id, False
    return sample.id, can_stay(path, found, {**work.record(source), "keys": list(sample.labels)}, REMEDY)


# --- the loop -------------------------------------------------------------------------------------


def run(work: CamWork, samples: Sequence[Sample], finished: set[str], threads: int = 2) -> Iterator[Outcome]:
    """Make the missing CAM files; one outcome an image.

    threads  write, and read too where there are no readers

    Batches are cut from the whole list, and one with anything missing is computed whole, so that a continued run
    writes the same bytes as an uninterrupted one.
    """
    planned = with_work(plan(work.reader, work.batch_size, samples), finished)
    yield from run_batches(work, planned, finished, threads)


def run_batches(work: CamWork, batches: Iterable[Batch], finished: set[str], threads: int = 2) -> Iterator[Outcome]:
    """The same for batches that were planned here or elsewhere: all outcomes of one before those of the next.

    Batches are drawn in the caller's thread, some ahead of what is computed. An image that cannot be read, computed
    or saved fails and costs no other.
    """
    for batch in ordered_map(partial(_save, work, finished), computed(work, batches, threads), threads):
        yield from batch.outcomes


def computed(work: CamWork, batches: Iterable[Batch], threads: int = 2) -> Iterator[Batch]:
    """Batches with their maps: computed in the caller's thread, read beside it."""
    if work.readers:
        read = in_processes(work.reader, batches, work.readers)
    else:
        read = ordered_map(work.reader, batches, threads)
    return (compute_batch(work, batch) for batch in read)


def compute_batch(work: CamWork, batch: Batch) -> Batch:
    """The maps of a batch; its images are let go, and those without maps become outcomes.

    Where the device has no memory for all images at once they are computed in smaller parts, at last alone on the CPU
    (out_of_memory.py), which is noted. Their maps then agree with those of the whole batch within the tolerance of
    other batch sizes: the order of sums differs, so the last digits do.
    """
    if not batch.samples:
        return batch
    shape, parts = tuple(batch.images[0].shape[-2:]), (work.clip, work.text, work.settings)
    results = work.room.compute(partial(_maps, batch), parts, shape, len(batch.samples))
    rows = list(zip(batch.samples, batch.sizes, batch.sources, results))
    batch.samples, batch.sizes, batch.sources, batch.images = [], [], [], []
    for sample, size, source, result in rows:
        if isinstance(result, Made):
            batch.samples.append(sample)
            batch.sizes.append(size)
            batch.sources.append(source)
            batch.maps.append(result.maps)
            batch.notes |= {sample.id: result.note} if result.note else {}
        else:
            known = isinstance(result, UserError)
            batch.outcomes.append(failure(sample, UserError(f"{sample.image}: {result}") if known else result))
    return batch


def _maps(batch: Batch, work: Work, part: slice) -> list[Any]:
    clip, text, settings = work
    images = torch.stack(batch.images[part]).to(clip.device)
    labels = [sample.labels for sample in batch.samples[part]]
    return compute_maps(clip, images, labels, text, settings)


def _save(work: CamWork, finished: set[str], batch: Batch) -> Batch:
    for sample, size, source, pair in zip(batch.samples, batch.sizes, batch.sources, batch.maps):
        if sample.id in finished:
            batch.outcomes.append(Outcome(sample.id, "kept"))
            continue
        try:
            cam, attn = map(to_numpy, pair)
            cams = Cams(np.array(sample.labels, np.int64), cam, attn, size)
            target = check_output(work.path(sample.id), work.job.out_dir)
            save_cams(target, cams, work.record(source), work.job.full_size)
        except StopRun:
            raise
        except Exception as error:  # of one image; it must not cost the others
            batch.outcomes.append(failure(sample, error))
        else:
            batch.outcomes.append(Outcome(sample.id, "made", note=batch.notes.get(sample.id, "")))
    return batch


def worker(number: int, task: tuple[CamJob, set[str], int]) -> Callable[[Iterable[Batch]], Iterator[Outcome]]:
    """In a process of its own: load the model, quietly; returns what makes the CAM files of batches.

    number  of this process, from 0
    task    the job, the ids that are finished, and how many processes share this machine
    """
    job, finished, processes = task
    with redirect_stderr(io.StringIO()):  # warnings, which the first process told already
        work = set_up(job, number, processes)
    return lambda batches: run_batches(work, batches, finished)
