"""The loop of generate_cams.py: images are read beside the model, maps are written beside it.

A `CamJob` is a value: other processes and machines get it and call `set_up`, which loads the model.
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
from clip.text_cache import cached_words
from common.cores import available_cores
from common.errors import UserError
from common.files import check_output
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import REGIONS, SOURCE, can_stay, source_of
from common.version import VERSION
from dataset.spec import DatasetSpec, Sample
from pipeline.files.cam_file import read_record, save_cams, spec_fingerprint
from pipeline.methods.method import CamSettings, LateSteps, Method, TextSet
from pipeline.methods.table import METHODS, compute_maps
from pipeline.stages.batches import Batch, Reader, RegionReader, plan, with_work
from pipeline.stages.evaluate import CHECKING
from pipeline.stages.failure import failure
from pipeline.stages.out_of_memory import Computed, DeviceMemory, Maps, Model
from pipeline.stages.readers import in_processes
from pipeline.steps.maps import Cams
from pipeline.steps.tensors import to_numpy

FORMAT = 3  # of the CAM file; part of its record
GPU_BATCH = 16  # images of one patch grid that go together on a GPU
TAG_FIRST = "give --labels, or let python -m scripts.tag_images write them first"
REMEDY = "pass --overwrite or another --cam_out_dir"


@dataclass(frozen=True)
class ModelSource:
    """Which CLIP, and where it computes; arguments of clip.load.load_clip and clip.device.pick_device.

    model    empty: none was named, for a method that takes no CLIP
    prompts  a file of learned prompts, in place of all templates
    """

    model: str
    pretrained: str | None = None
    activation: str = "auto"
    device: str = "auto"
    prompts: Path | None = None

    def load(self, worker: int = 0, resnets: bool = False, method: Method | None = None) -> Clip:
        """The frozen CLIP on the worker's device, or the model that the method loads. Raises UserError."""
        device = pick_device(self.device, worker)
        if method is not None and method.load is not None:
            return method.load(self, device)
        return load_clip(self.model, self.pretrained, device, self.activation, resnets, self.prompts)


@dataclass(frozen=True)
class CamJob:
    """Maps of all images of a run.

    spec        the classes and prompts
    settings    the method and its settings; None where the model or the data set decides
    out_dir     where the CAM files go
    full_size   maps at the size of the image, with the reference's names
    batch_size  images of one patch grid that go together; None: 16 on a GPU, else 1
    readers     processes that read images; None: a few where a GPU waits for them, else threads
    folder      names the folder of the images where their ids come again in other folders
    plain_vit   refuse a ResNet, whatever the method (TagCLIP uses the same model)
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
    memory   what was learned of the device's memory
    """

    job: CamJob
    clip: Clip
    text: TextSet
    settings: CamSettings
    made_by: dict[str, Any]
    batch_size: int
    readers: int
    memory: DeviceMemory = field(default_factory=DeviceMemory, compare=False, repr=False)

    @property
    def reader(self) -> Reader | RegionReader:
        method, options = METHODS[self.settings.method], self.settings.options
        if method.regions is None:
            return Reader(self.clip.patch_size, self.settings.max_side, method.preparation(self.clip, options))
        proposer = method.regions.proposer(options)
        propose = None if proposer.network else proposer.load(options.proposer, None)
        source = partial(proposer.source, options.proposer) if proposer.source else None
        return RegionReader(self.settings.max_side, propose, source)

    @property
    def kind(self) -> str:
        """What the values of the maps are; one of pipeline.steps.kinds.KINDS."""
        return METHODS[self.settings.method].kind(self.settings.options)

    def path(self, image_id: str) -> Path:
        return self.job.out_dir / f"{image_id}.npz"

    def record(self, source: str, regions: str = "") -> dict[str, Any]:
        """The record of a CAM file; `regions` is the identity of the file that the regions were read from."""
        return {**self.made_by, SOURCE: source, **({REGIONS: regions} if regions else {})}

    def record_now(self, sample: Sample) -> dict[str, Any]:
        """The record that the file of an image would get now. Raises UserError for files that cannot be read."""
        source = getattr(self.reader, "source", None)
        return self.record(source_of(sample.image), source_of(source(sample.id)) if source else "")


def set_up(job: CamJob, worker: int = 0, processes: int = 1) -> CamWork:
    """Load the model on the worker's device and encode the prompts.

    worker     number of this process; spreads workers over the GPUs
    processes  that share this machine's cores
    Raises UserError for a model that cannot be loaded, or settings that do not fit it.
    """
    method, settings = METHODS[job.settings.method], job.settings
    if method.regions is not None and settings.augmented and not method.regions.proposer(settings.options).views:
        told = "which looks at regions; only --proposals maskformer finds them at several scales"
        raise UserError(f"--scales and --flip: not with --method {settings.method}, {told}")
    if job.plain_vit and method.load is not None:
        raise UserError(
            f"--method {job.settings.method} loads a model of its own, and TagCLIP needs a CLIP; {TAG_FIRST}"
        )
    clip = job.model.load(worker, method.resnets and not job.plain_vit, method)
    options = method.settings() if settings.options is None else settings.options
    settings = replace(settings, options=method.complete(clip, job.spec, options))
    on_cpu = clip.device.type == "cpu"
    readers = job.readers
    if readers is None:
        readers = 0 if on_cpu else min(8, max(1, available_cores() // processes - 1))
    batch_size = job.batch_size or (1 if on_cpu else GPU_BATCH)
    made_by = _record(job, clip, settings)
    return CamWork(job, clip, text_set(clip, job.spec, settings), settings, made_by, batch_size, readers)


def _record(job: CamJob, clip: Clip, settings: CamSettings) -> dict[str, Any]:
    """What the files of a run have in common."""
    kind = METHODS[settings.method].kind(settings.options)
    return {
        "format": FORMAT,
        "code": VERSION,
        "dataset": job.spec.name,
        "model": clip.fingerprint,
        "activation": clip.activation,
        "prompts": spec_fingerprint(job.spec),
        **({"learned_prompts": clip.learned.fingerprint} if clip.learned else {}),
        "save": "highres" if job.full_size else "grid",
        **settings.record(),
        **({} if kind == "cam" else {"kind": kind}),
        **({"images": job.folder} if job.folder else {}),
    }


def with_options(work: CamWork, **values: Any) -> CamWork:
    """The same work with other values of the method's own settings, of those that its last steps read (`LateSteps`)."""
    settings = replace(work.settings, options=replace(work.settings.options, **values))
    return replace(work, settings=settings, made_by=_record(work.job, work.clip, settings))


def text_set(clip: Clip, spec: DatasetSpec, settings: CamSettings) -> TextSet:
    """Text embeddings of a data set's classes and background prompts, as the method asks for them."""
    words = METHODS[settings.method].words(spec, settings.options)
    embeddings, counts = cached_words(clip, words), words.counts[: len(spec.prompts)]
    rows = sum(counts)
    return TextSet(embeddings[:rows], embeddings[rows:], tuple(counts) if words.separate else ())


def finished_ids(work: CamWork, samples: Iterable[Sample]) -> set[str]:
    """Ids whose CAM file is whole and made with the same settings, labels and image.

    Damaged files, and those of images that were replaced, count as missing. Raises UserError, showing the difference,
    when a file was made with other settings or for other labels.
    """

    def is_finished(sample: Sample) -> bool:
        path = work.path(sample.id)
        try:
            record, now = read_record(path), work.record_now(sample)
        except UserError:  # missing or damaged; an image that cannot be read will say so
            return False
        if len(record) == 1:  # `keys` alone: the file does not say how it was made, and is made again
            return False
        return can_stay(path, record, {**now, "keys": list(sample.labels)}, REMEDY)

    samples = list(samples)
    checked = ordered_map(is_finished, samples, CHECKING, ahead=16)
    return {sample.id for sample, finished in zip(samples, checked) if finished}


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
    for outcomes in ordered_map(partial(_save, work, finished), computed(work, batches, threads), threads):
        yield from outcomes


def computed(work: CamWork, batches: Iterable[Batch], threads: int = 2) -> Iterator[Batch]:
    """Batches with their maps: computed in the caller's thread, read beside it."""
    if work.readers:
        read = in_processes(work.reader, batches, work.readers)
    else:
        read = ordered_map(work.reader, batches, threads)
    return (compute_batch(work, batch) for batch in read)


def compute_batch(work: CamWork, batch: Batch, late: LateSteps | None = None) -> Batch:
    """The maps of a batch, whose pixels are let go; images without maps become outcomes.

    late  the method's last steps, which are left out: in place of the maps there is what they work on

    Where the device has no memory for all images at once they are computed in smaller parts, at last alone on the CPU
    (out_of_memory.py), which is noted. Their maps then agree with those of the whole batch within the tolerance of
    other batch sizes: the order of sums differs, so the last digits do.
    """
    if not batch.images:
        return batch
    region_method = METHODS[work.settings.method].regions
    pixels = [image.pixels for image in batch.images if image.pixels is not None]

    def compute(model: Model, part: slice) -> list[Maps]:
        clip, text, settings = model
        labels = [image.sample.labels for image in batch.images[part]]
        if region_method is not None:
            scenes = [(image.photo, image.regions) for image in batch.images[part] if image.photo]
            return [(maps, maps) for maps in region_method.maps(clip, scenes, labels, text, settings)]
        if late is not None:
            return late.look(clip, torch.stack(pixels[part]).to(clip.device), labels, text, settings)
        results = compute_maps(clip, torch.stack(pixels[part]).to(clip.device), labels, text, settings)
        return [arrays_of(maps) for maps in results]

    model, shape = (work.clip, work.text, work.settings), tuple(pixels[0].shape[-2:]) if pixels else ()
    results = work.memory.compute(compute, model, shape, len(batch.images))
    images, batch.images = batch.images, []
    for image, result in zip(images, results):
        if isinstance(result, Computed):
            note = "; ".join(filter(None, (image.note, result.note)))
            batch.images.append(replace(image, pixels=None, photo=None, regions=None, maps=result.maps, note=note))
        else:
            path = image.sample.image
            error = UserError(f"{path}: {result}") if isinstance(result, UserError) else result
            batch.outcomes.append(failure(image.sample.id, error, path))
    return batch


def arrays_of(maps: Sequence[torch.Tensor]) -> Maps:
    """An image's maps as arrays; the same tensor gives the same array."""
    arrays = {id(tensor): to_numpy(tensor) for tensor in maps}
    return tuple(arrays[id(tensor)] for tensor in maps)


def _save(work: CamWork, finished: set[str], batch: Batch) -> list[Outcome]:
    """Write the files of a batch, but for those that are finished; all its outcomes."""
    outcomes = batch.outcomes
    for image in batch.images:
        sample = image.sample
        if sample.id in finished:
            outcomes.append(Outcome(sample.id, "kept"))
            continue
        try:
            cam, attn, *groups = image.maps
            cams = Cams(np.array(sample.labels, np.int64), cam, attn, image.size, *groups)
            target = check_output(work.path(sample.id), work.job.out_dir)
            save_cams(target, cams, work.record(image.source, image.of), work.job.full_size)
            outcomes.append(Outcome(sample.id, "made", note=image.note))
        except Exception as error:
            outcomes.append(failure(sample.id, error, sample.image))
    return outcomes


def worker(number: int, task: tuple[CamJob, set[str], int]) -> Callable[[Iterable[Batch]], Iterator[Outcome]]:
    """In a process of its own: load the model, quietly; returns what makes the CAM files of batches.

    number  of this process, from 0
    task    the job, the ids that are finished, and how many processes share this machine
    """
    job, finished, processes = task
    with redirect_stderr(io.StringIO()):  # warnings, which the first process has printed
        work = set_up(job, number, processes)
    return lambda batches: run_batches(work, batches, finished)
