"""The loop of scripts/predict_segmentor.py: images -> masks by a network.

The CRF and the writing of masks are those of eval_cam_with_crf.py (pipeline/stages/crf.py).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from common.images import image_size, read_at, working_size
from common.memory import out_of_memory
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import SOURCE, can_stay, source_of
from common.version import VERSION
from dataset.voc_layout import find_image
from pipeline.stages.crf import (
    CHECKING,
    MOST_PROBABILITIES,
    SHRUNK,
    CrfInput,
    CrfJob,
    CrfResult,
    finish,
    sharpen_all,
)
from pipeline.stages.evaluate import mask_record
from pipeline.stages.failure import failure
from pipeline.steps.masks import labels_of
from segmentor.prediction import probabilities
from segmentor.settings import InferenceSettings

FORMAT = 1  # of the record in a mask
ON_CPU = "on the CPU, out of GPU memory"
REMEDY = "pass --overwrite or another --out"


@dataclass(frozen=True)
class PredictJob:
    """Everything that is the same for all images of a run.

    network  in evaluation mode, on its device
    weights  identity of the weight file (common.provenance.source_of)
    masks    images, where the masks go and how they are written; every label that the network knows is a class here
    crf      whether the probabilities are sharpened
    present  the labels that each image may get, where image-level labels say so; None: all
    """

    network: nn.Module
    weights: str
    inference: InferenceSettings
    masks: CrfJob
    crf: bool = False
    present: Mapping[str, tuple[int, ...]] | None = None

    def record(self, image_id: str, source: str) -> dict[str, Any]:
        """The record of the mask of an image."""
        keys = {} if self.present is None else {"keys": list(self.present[image_id])}
        return {**self.settings(), **keys, SOURCE: source}

    def settings(self) -> dict[str, Any]:
        """What all masks of a run have in common."""
        record = {
            "format": FORMAT,
            "code": VERSION,
            "weights": self.weights,
            **{name: value for name, value in asdict(self.inference).items() if name != "normalisation"},
            "confidence": self.masks.confidence,
            "palette": self.masks.palette,
            "max_pixels": self.masks.max_pixels,
            "crf": "yes" if self.crf else "no",
            **(asdict(self.masks.crf) if self.crf else {}),
        }
        if self.inference.resize is None:
            del record["resize"]
        if self.present is not None:
            record["labels"] = "given"
        return record

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which an image of (H, W) is worked on; the more labels, the smaller it may be."""
        return working_size(size, min(self.masks.max_pixels, MOST_PROBABILITIES // self.masks.num_classes))


def finished_ids(job: PredictJob, ids: Sequence[str]) -> set[str]:
    """Ids whose mask is whole and made in the same way of the same photo; damaged masks count as missing.

    Raises UserError, which says what differs, when a mask was made in another way.
    """

    def finished(image_id: str) -> bool:
        target = job.masks.target(image_id)
        try:
            record, photo = mask_record(target), find_image(job.masks.images, image_id)
            wanted = job.record(image_id, source_of(photo))
            same_size = image_size(photo) == image_size(target)
        except UserError:
            return False
        return can_stay(target, record, wanted, REMEDY) and same_size

    candidates = () if job.masks.overwrite else ids
    checks = ordered_map(finished, candidates, CHECKING, ahead=16)
    return {image_id for image_id, done in zip(candidates, checks) if done}


def run(job: PredictJob, ids: Sequence[str], threads: int = 2) -> Iterator[Outcome]:
    """Make the missing masks; one outcome an image, in order.

    Images are read, sharpened and written in threads beside the network, which runs in the caller's thread.
    Raises UserError before any work when a mask that is there was made in another way.
    """
    finished = finished_ids(job, ids)
    predicted = (_predict(job, image) for image in ordered_map(partial(_read, job, finished), ids, threads))
    write = partial(finish, job.masks, finished)
    if job.crf:
        written = sharpen_all(job.masks, predicted, lambda image: image, write, threads)
    else:
        written = ordered_map(lambda image: write(_labelled(image)), predicted, threads)
    return (result.outcome for result in written)


def _read(job: PredictJob, finished: Collection[str], image_id: str) -> CrfInput | Outcome:
    """An image whose maps are still to be made."""
    if image_id in finished:
        return Outcome(image_id, "kept")
    try:
        photo = find_image(job.masks.images, image_id)
        record = job.record(image_id, source_of(photo))
        rgb, size = np.asarray(read_at(photo, job.working_size)), image_size(photo)
        keys = np.array(range(job.masks.num_classes) if job.present is None else job.present[image_id])
        return CrfInput(image_id, photo, rgb, keys, np.empty(0), size, record)
    except Exception as error:
        return failure(image_id, error)


def _predict(job: PredictJob, image: CrfInput | Outcome) -> CrfInput | Outcome:
    """The image with the network's probabilities as its maps, (C, H', W')."""
    if isinstance(image, Outcome):
        return image
    try:
        return _of_labels(image, probabilities(job.network, image.rgb, job.inference))
    except Exception as error:
        device = next(job.network.parameters()).device
        if device.type == "cpu" or not out_of_memory(error):
            return failure(image.id, error)
        trouble = error.with_traceback(None)  # else it would hold on to the memory that is missing
    torch.cuda.empty_cache()
    try:
        maps = probabilities(job.network.to("cpu"), image.rgb, job.inference)
        return replace(_of_labels(image, maps), notes=(ON_CPU,))
    except Exception:
        return failure(image.id, trouble)
    finally:
        job.network.to(device)


def _of_labels(image: CrfInput, maps: np.ndarray) -> CrfInput:
    """The image with the maps of the labels that it may get, which share a pixel's probability among themselves."""
    if len(maps) > len(image.keys):
        maps = maps[image.keys] + np.float32(1e-12)
        maps = maps / maps.sum(axis=0)
    return replace(image, maps=maps)


def _labelled(image: CrfInput | Outcome) -> CrfResult | Outcome:
    """The labels of an image without CRF."""
    if isinstance(image, Outcome):
        return image
    labels = labels_of(image.maps, image.keys, has_background=False)
    shrunk = () if labels.shape == image.size else (SHRUNK,)
    return CrfResult(image, labels, image.maps, (*image.notes, *shrunk))
