"""The loop of generate_cams.py: images are read beside the model, maps are written beside it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip.load import Clip
from clip.templates import TEMPLATE_SETS, fill_templates
from clip.text import fill_template
from clip.text_cache import cached_prompts
from common.errors import StopRun, UserError
from common.images import image_size
from common.outcome import Outcome
from common.parallel import ordered_map
from common.version import VERSION
from dataset.spec import DatasetSpec, Sample
from pipeline.files.cam_file import read_arrays, save_cams, spec_fingerprint
from pipeline.methods.maskclip import MaskClipSettings
from pipeline.methods.table import METHODS, CamSettings, MapPair, TextSet, compute_maps
from pipeline.stages.batches import Batch, Reader, failure, plan
from pipeline.stages.out_of_memory import Made, Room, Work
from pipeline.stages.readers import in_processes, read_one_by_one
from pipeline.stages.tags import choose_templates
from pipeline.steps.maps import Cams
from pipeline.steps.tensors import to_numpy

FORMAT = 2  # of the CAM file; part of its record
CHECKING = 8  # files that are looked at side by side to see what is finished


@dataclass(frozen=True)
class CamJob:
    """Everything that is the same for all images of a run; `room` is what was learned of the device's memory."""

    clip: Clip
    text: TextSet
    settings: CamSettings
    out_dir: Path
    made_by: dict[str, Any]
    full_size: bool = False
    batch_size: int = 1
    room: Room = field(default_factory=Room, compare=False, repr=False)

    @property
    def reader(self) -> Reader:
        how = METHODS[self.settings.method].preparation(self.clip, self.settings)
        return Reader(self.clip.patch_size, self.settings.max_side, how)

    def path(self, image_id: str) -> Path:
        return self.out_dir / f"{image_id}.npz"


def text_set(clip: Clip, spec: DatasetSpec, settings: CamSettings | None = None) -> TextSet:
    """Text embeddings of a data set's classes and background prompts, as the method asks for them (CLIP-ES)."""
    own = settings and METHODS[settings.method].dense and (settings.maskclip or MaskClipSettings())
    prompts = _dense_prompts(spec, own.templates) if own else _prompts(spec)
    embeddings = cached_prompts(clip, prompts)
    return TextSet(embeddings[: len(spec.prompts)], embeddings[len(spec.prompts) :])


def _prompts(spec: DatasetSpec) -> list[list[str]]:
    return fill_template(spec.template, [*spec.prompts, *((prompt,) for prompt in spec.background_prompts)])


def _dense_prompts(spec: DatasetSpec, templates: str) -> list[list[str]]:
    """For MaskCLIP: plain names in all templates. Without background words there is the word itself to compete."""
    words = (spec.background_prompts or ("background",)) if spec.has_background else ()
    names = [*(spec.plain_prompts or spec.prompts), *((word,) for word in words)]
    if templates == "dataset":
        return fill_template(spec.template, names)
    return fill_templates(TEMPLATE_SETS[templates], names)


def maskclip_settings(clip: Clip, spec: DatasetSpec, method: str, given: Mapping[str, Any]) -> MaskClipSettings | None:
    """What the command line says (cli.model_options.maskclip_values), with the model's and data set's own choices.

    None for a method that is not told such things.
    """
    if not METHODS[method].dense:
        return None
    templates = choose_templates(clip, given["templates"])
    frame = given["frame"]
    if frame is None and METHODS[method].smoothing:  # the official variant; the other one squares its images
        frame = spec.maskclip_frame
    return MaskClipSettings(**{**given, "templates": templates, "frame": frame})


def record(clip: Clip, spec: DatasetSpec, settings: CamSettings, full_size: bool) -> dict[str, Any]:
    """What makes two CAM files comparable; stored in each. Maps of another kind than "cam" say so."""
    kind = METHODS[settings.method].kind(settings)
    told = {name: value for name, value in asdict(settings).items() if value is not None}
    return {
        "format": FORMAT,
        "code": VERSION,
        "dataset": spec.name,
        "model": clip.fingerprint,
        "activation": clip.activation,
        "prompts": spec_fingerprint(spec),
        "save": "highres" if full_size else "grid",
        **json.loads(json.dumps(told)),
        **({} if kind == "cam" else {"kind": kind}),
    }


def finished_ids(job: CamJob, samples: Iterable[Sample]) -> set[str]:
    """Ids whose CAM file is whole and made with the same settings and labels; damaged files count as missing.

    Raises UserError, showing the difference, when a file was made with other ones.
    """
    checked = ordered_map(partial(_is_finished, job), samples, CHECKING, ahead=16)
    return {image_id for image_id, finished in checked if finished}


def _is_finished(job: CamJob, sample: Sample) -> tuple[str, bool]:
    try:
        arrays = read_arrays(job.path(sample.id))
        made_by, keys = json.loads(str(arrays["made_by"])), arrays["keys"].ravel().tolist()
    except (UserError, KeyError, ValueError, RecursionError):
        return sample.id, False
    if not isinstance(made_by, dict):
        return sample.id, False
    _check_same(job.path(sample.id), made_by, job.made_by)
    if tuple(keys) != sample.labels:
        raise UserError(f"{job.path(sample.id)}: made for other labels; pass --overwrite or another --cam_out_dir")
    return sample.id, _same_size(sample.image, arrays)


def _same_size(image: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Whether the image still has the size its maps were made for; one that was replaced is worked on again."""
    try:
        made_for = arrays["size"] if "size" in arrays else np.array(arrays["attn_highres"].shape[1:])
        return tuple(made_for.tolist()) == image_size(image)
    except (UserError, KeyError, TypeError):
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
    planned = plan(job.reader, job.batch_size, samples, finished)
    yield from run_batches(job, planned, finished, threads, readers)


def run_batches(
    job: CamJob, batches: Iterable[Batch], finished: set[str], threads: int = 2, readers: int = 0
) -> Iterator[Outcome]:
    """The same for batches that were planned here or elsewhere: all outcomes of one before those of the next.

    Batches are drawn in the caller's thread, some ahead of what is computed. An image that cannot be read, computed
    or saved fails and costs no other.
    """
    computed = _computed(job, batches, threads, readers)
    for batch in ordered_map(partial(_save, job, finished), computed, threads):
        yield from batch.outcomes


def computed_batches(
    job: CamJob, samples: Sequence[Sample], finished: set[str], threads: int, readers: int
) -> Iterator[Batch]:
    """Batches with their maps: planned and computed in the caller's thread, read beside it."""
    return _computed(job, plan(job.reader, job.batch_size, samples, finished), threads, readers)


def _computed(job: CamJob, batches: Iterable[Batch], threads: int, readers: int) -> Iterator[Batch]:
    if readers:
        read = in_processes(job.reader, batches, readers, partial(read_one_by_one, job.reader))
    else:
        read = ordered_map(job.reader, batches, threads)
    return (compute_batch(job, batch) for batch in read)


def compute_batch(job: CamJob, batch: Batch) -> Batch:
    """The maps of a batch; its images are let go, and those without maps become outcomes.

    Where the device has no memory for all images at once they are computed in smaller parts, at last alone on the CPU
    (out_of_memory.py), which is noted. Their maps then agree with those of the whole batch within the tolerance of
    other batch sizes: the order of sums differs, so the last digits do.
    """
    if not batch.samples:
        return batch
    shape, work = tuple(batch.images[0].shape[-2:]), (job.clip, job.text, job.settings)
    results = job.room.compute(partial(_maps, batch), work, shape, len(batch.samples))
    samples, sizes = batch.samples, batch.sizes
    batch.samples, batch.sizes, batch.images = [], [], []
    for sample, size, result in zip(samples, sizes, results):
        if isinstance(result, Made):
            batch.samples.append(sample)
            batch.sizes.append(size)
            batch.maps.append(result.maps)
            batch.notes |= {sample.id: result.note} if result.note else {}
        else:
            known = isinstance(result, UserError)
            batch.outcomes.append(failure(sample, UserError(f"{sample.image}: {result}") if known else result))
    return batch


def _maps(batch: Batch, work: Work, part: slice) -> list[MapPair]:
    clip, text, settings = work
    images = torch.stack(batch.images[part]).to(clip.device)
    labels = [sample.labels for sample in batch.samples[part]]
    return compute_maps(clip, images, labels, text, settings)


def _save(job: CamJob, finished: set[str], batch: Batch) -> Batch:
    for sample, size, pair in zip(batch.samples, batch.sizes, batch.maps):
        if sample.id in finished:
            batch.outcomes.append(Outcome(sample.id, "kept"))
            continue
        try:
            _save_one(job, sample, size, pair)
        except StopRun:
            raise
        except Exception as error:  # of one image; it must not cost the others
            batch.outcomes.append(failure(sample, error))
        else:
            batch.outcomes.append(Outcome(sample.id, "made", note=batch.notes.get(sample.id, "")))
    return batch


def _save_one(job: CamJob, sample: Sample, size: tuple[int, int], pair: MapPair) -> None:
    cam, attn = map(to_numpy, pair)
    keys = np.array(sample.labels, np.int64)
    save_cams(job.path(sample.id), Cams(keys, cam, attn, size), job.made_by, job.full_size)
