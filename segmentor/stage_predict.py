"""The loop of scripts/predict_segmentor.py: images -> masks by a network."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from common.files import check_output
from common.images import image_size, read_within, working_size
from common.memory import out_of_memory
from common.outcome import Outcome
from common.parallel import ordered_map
from common.version import VERSION
from dataset import mask_png
from dataset.voc_layout import find_image
from pipeline.crf.dense_crf import dense_crf
from pipeline.crf.settings import CrfSettings
from pipeline.stages.crf import SHRUNK
from pipeline.stages.evaluate import failure
from pipeline.steps import masks
from pipeline.steps.maps import enlarge_labels
from segmentor.prediction import Looks, probabilities

FORMAT = 1  # of the record in a mask
CHECKING = 8  # masks that are looked at side by side to see what is finished
MOST_PROBABILITIES = 1 << 27  # of an image, all classes together; 0.5 GB
ON_CPU = "on the CPU, out of GPU memory"


@dataclass(frozen=True)
class PredictJob:
    """Everything that is the same for all images of a run.

    network     in evaluation mode, on the device of `looks`
    weights     digest of the weight file
    labels      how many the network knows
    confidence  below this probability a pixel becomes 255; 0: never
    crf         the backend of pipeline.crf.dense_crf by which the probabilities are sharpened, or None
    max_pixels  larger images are worked on at a smaller size (common.images.working_size)
    """

    network: nn.Module
    weights: str
    labels: int
    images: Path
    out_dir: Path
    looks: Looks
    confidence: float = 0.0
    crf: str | None = None
    palette: bool = False
    overwrite: bool = False
    max_pixels: int = 3_000_000
    crf_settings: CrfSettings = field(default_factory=CrfSettings)

    def settings(self) -> dict[str, Any]:
        """What makes two masks comparable."""
        looks = self.looks
        sharpened = {"crf": "yes", **asdict(self.crf_settings)} if self.crf else {"crf": "no"}
        return {
            "format": FORMAT,
            "code": VERSION,
            "weights": self.weights,
            "scales": list(looks.scales),
            "flip": looks.flip,
            "precision": looks.precision,
            "confidence": self.confidence,
            "palette": self.palette,
            "max_pixels": self.max_pixels,
            **({"resize": list(looks.resize)} if looks.resize else {}),
            **sharpened,
        }

    @property
    def record(self) -> str:
        return json.dumps(self.settings(), sort_keys=True)

    def target(self, image_id: str) -> Path:
        return self.out_dir / f"{image_id}.png"

    def working(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which an image of (H, W) is worked on; the more labels, the smaller it may be."""
        return working_size(size, min(self.max_pixels, MOST_PROBABILITIES // self.labels))


def digest(path: Path) -> str:
    """By which a weight file is known."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:16]


def finished_ids(job: PredictJob, ids: Sequence[str]) -> set[str]:
    """Ids whose mask is whole and made in the same way; damaged masks and those of replaced images count as missing.

    Raises UserError, showing the difference, when a mask was made in another way.
    """
    checked = ordered_map(partial(_is_finished, job), () if job.overwrite else ids, CHECKING, ahead=16)
    return {image_id for image_id, finished in checked if finished}


def _is_finished(job: PredictJob, image_id: str) -> tuple[str, bool]:
    target = job.target(image_id)
    try:
        found = mask_png.mask_made_by(target)
        same_size = image_size(find_image(job.images, image_id)) == image_size(target)
    except UserError:
        return image_id, False
    if found != job.record:
        raise UserError(f"{target}: {_difference(found, job.settings())}; pass --overwrite or another --out")
    return image_id, same_size


def _difference(found: str, wanted: Mapping[str, Any]) -> str:
    try:
        then = dict(json.loads(found))
    except (ValueError, TypeError):
        return "not made by scripts.predict_segmentor"
    every = {**wanted, **then}  # what is left out in a record was not asked for
    differing = [f"{key} {then.get(key)} (now {wanted.get(key)})" for key in every if then.get(key) != wanted.get(key)]
    return f"made with other settings: {', '.join(differing) or 'an older form'}"


@dataclass(frozen=True)
class Seen:
    """One image behind the network: rgb (H', W', 3) uint8, probabilities (C, H', W'), size (H, W) of its mask."""

    id: str
    rgb: np.ndarray
    size: tuple[int, int]
    probabilities: np.ndarray
    notes: tuple[str, ...] = ()


def run(job: PredictJob, ids: Sequence[str], threads: int = 2) -> Iterator[Outcome]:
    """Make the missing masks; one outcome an image, in order.

    Images are read, sharpened and written in threads beside the network, which runs in the caller's thread.
    Raises UserError before any work when a mask that is there was made in another way.
    """
    finished = finished_ids(job, ids)
    read = ordered_map(partial(_read, job, finished), ids, threads)
    return ordered_map(partial(_finish, job), (_seen(job, image) for image in read), threads)


def _read(job: PredictJob, finished: Collection[str], image_id: str) -> Seen | Outcome:
    if image_id in finished:
        return Outcome(image_id, "kept")
    try:
        path = find_image(job.images, image_id)
        size = image_size(path)
        working = job.working(size)
        rgb = np.asarray(read_within(path, working[0] * working[1]))
        notes = (SHRUNK,) if rgb.shape[:2] != size else ()
        return Seen(image_id, rgb, size, np.empty(0), notes)
    except Exception as error:
        return failure(image_id, error)


def _seen(job: PredictJob, image: Seen | Outcome) -> Seen | Outcome:
    if isinstance(image, Outcome):
        return image
    try:
        found, notes = probabilities(job.network, image.rgb, job.looks), image.notes
    except Exception as error:
        if job.looks.device.type == "cpu" or not out_of_memory(error):
            return failure(image.id, error)
        trouble = error.with_traceback(None)  # else it would hold on to the memory that is missing
        try:
            found, notes = _on_cpu(job, image.rgb), (*image.notes, ON_CPU)
        except Exception:
            return failure(image.id, trouble)
    return Seen(image.id, image.rgb, image.size, found, notes)


def _on_cpu(job: PredictJob, rgb: np.ndarray) -> np.ndarray:
    """The same where the GPU's memory does not suffice for an image."""
    device = job.looks.device
    torch.cuda.empty_cache()
    try:
        return probabilities(job.network.to("cpu"), rgb, job.looks.on(torch.device("cpu")))
    finally:
        job.network.to(device)


def _finish(job: PredictJob, image: Seen | Outcome) -> Outcome:
    """Sharpen and write the mask of one image."""
    if isinstance(image, Outcome):
        return image
    try:
        found = image.probabilities
        if job.crf:
            found = dense_crf(image.rgb, found, job.crf_settings, job.crf, job.looks.device)
        mask = masks.confident(found.argmax(axis=0).astype(np.uint8), found, job.confidence)
        target = check_output(job.target(image.id), job.out_dir)
        mask_png.write_mask(target, enlarge_labels(mask, image.size), job.palette, job.record)
        return Outcome(image.id, "made", note="; ".join(image.notes))
    except Exception as error:
        return failure(image.id, error)
