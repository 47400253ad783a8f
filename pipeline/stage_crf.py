"""The loop of eval_cam_with_crf.py: CAM files + images -> masks, and scores where there is ground truth.

May import the steps, clip.device, dataset and common.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clip.device import pick_device
from common.console import Outcome
from common.errors import UserError
from common.images import image_size, read_image
from common.parallel import ordered_map
from dataset.voc_layout import find_image
from pipeline import masks
from pipeline.crf import CrfSettings, dense_crf, dense_crf_batch, reference_image
from pipeline.scores import confusion_matrix
from pipeline.stage_eval import Totals, check_shape, read_truth
from pipeline.storage import load_cams, read_origin

FORMAT = 2  # of the record in a mask
GROUP = 8  # images that go to the device together

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CrfJob:
    """Everything that is the same for all images of a run.

    cams, images  folders of CAM files and images
    out_dir       folder of the masks, or None to write none
    truth         folder of ground-truth masks, or None to score nothing
    crf_image     "rgb", or "reference": mean-subtracted, wrapped BGR (clip_es section 6)
    backend       "numba", "torch" or "pydensecrf"
    device        where the backend torch computes; "auto": a GPU if there is one
    """

    cams: Path
    images: Path
    out_dir: Path | None
    truth: Path | None
    num_classes: int
    cam_type: str = "attn_highres"
    crf_image: str = "rgb"
    backend: str = "numba"
    device: str = "auto"
    confidence: float = masks.CONFIDENCE
    palette: bool = False
    overwrite: bool = False
    crf: CrfSettings = field(default_factory=CrfSettings)

    def empty_totals(self) -> Totals:
        labels = self.num_classes + 1
        return Totals(np.zeros((1, labels, labels + 1), np.int64))

    def cam_file(self, image_id: str) -> Path:
        return self.cams / f"{image_id}.npz"

    def record_of(self, image_id: str) -> str:
        """The record of a mask that is made from the image's CAM file as it is now."""
        return self.record(*read_origin(self.cam_file(image_id)))

    def target(self, image_id: str) -> Path:
        """Where the mask goes; only with an `out_dir`."""
        assert self.out_dir is not None
        return self.out_dir / f"{image_id}.png"

    def record(self, cams_made_by: Mapping[str, Any], keys: Iterable[int]) -> str:
        """What makes two masks comparable, given the record of the maps they come from and their classes; as JSON."""
        source = json.dumps(dict(cams_made_by), sort_keys=True)
        made_by: dict[str, Any] = {
            "format": FORMAT,
            "cams": hashlib.sha256(source.encode()).hexdigest()[:16],
            "keys": [int(key) for key in keys],
            "cam_type": self.cam_type,
            "crf_image": self.crf_image,
            "confidence": self.confidence,
            "palette": self.palette,
            **asdict(self.crf),
        }
        return json.dumps(made_by, sort_keys=True)


def backend_for(device: str) -> str:
    """The DenseCRF that suits `--device`: "torch" on a GPU, else "numba"."""
    return "torch" if pick_device(device).type == "cuda" else "numba"


def finished_ids(job: CrfJob, ids: Iterable[str]) -> set[str]:
    """Ids whose mask is whole and made in the same way from the same maps; damaged masks count as missing.

    Raises UserError when a mask was made in another way.
    """
    finished = set()
    for image_id in ids if job.out_dir and not job.overwrite else ():
        try:
            record, wanted = masks.mask_made_by(job.target(image_id)), job.record_of(image_id)
            same_size = image_size(find_image(job.images, image_id)) == image_size(job.target(image_id))
        except UserError:
            continue
        if record != wanted:
            where = f"{job.target(image_id)}: made with other settings"
            raise UserError(f"{where}; pass --overwrite or another --pseudo_mask_save_path")
        if same_size:  # else the image was replaced
            finished.add(image_id)
    return finished


@dataclass(frozen=True)
class Ready:
    """One image before the CRF: rgb (H, W, 3) uint8, keys (k,) class indices, maps (k, H, W) float32 in [0, 1]."""

    id: str
    rgb: np.ndarray
    keys: np.ndarray
    maps: np.ndarray


@dataclass(frozen=True)
class Sharpened:
    """The same after it: labels (H, W) uint8 and probabilities (k+1, H, W)."""

    id: str
    keys: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def run(job: CrfJob, ids: Sequence[str], totals: Totals, threads: int) -> Iterator[Outcome]:
    """Refine every image, write its mask, add its scores to the totals; one outcome an image.

    Raises UserError before any work when a mask that is there was made in another way.
    """
    finished = finished_ids(job, ids)
    end = partial(finish, job, finished, lambda image: job.record_of(image.id))
    for outcome, confusion in sharpen_all(job, ids, partial(_load, job, finished), end, threads):
        if confusion is not None:
            totals.add(confusion)
        yield outcome


def sharpen_all(
    job: CrfJob,
    items: Iterable[Item],
    load: Callable[[Item], Ready | Outcome],
    finish: Callable[[Sharpened | Outcome], Result],
    threads: int,
) -> Iterator[Result]:
    """Load, sharpen and finish every item, in order, a bounded number of them under way.

    All three in threads, image by image; on a device, groups are sharpened in the caller's thread between the others.
    """
    if job.backend != "torch":
        return ordered_map(lambda item: finish(_sharpened(job, load(item))), items, threads)
    return ordered_map(finish, _sharpened_on_device(job, ordered_map(load, items, threads, ahead=GROUP)), threads)


def _sharpened(job: CrfJob, image: Ready | Outcome) -> Sharpened | Outcome:
    if isinstance(image, Outcome):
        return image
    return Sharpened(image.id, image.keys, *sharpen(job, image.rgb, image.keys, image.maps))


def _sharpened_on_device(job: CrfJob, images: Iterator[Ready | Outcome]) -> Iterator[Sharpened | Outcome]:
    while group := list(islice(images, GROUP)):
        ready = [image for image in group if isinstance(image, Ready)]
        probs = [masks.with_background(image.maps) for image in ready]
        found = iter(dense_crf_batch([_crf_image(job, image.rgb) for image in ready], probs, job.crf, job.device))
        for image in group:
            if isinstance(image, Outcome):
                yield image
            else:
                probabilities = next(found)
                yield Sharpened(image.id, image.keys, masks.labels_of(probabilities, image.keys), probabilities)


def _load(job: CrfJob, finished: Collection[str], image_id: str) -> Ready | Outcome:
    if image_id in finished and job.truth is None:
        return Outcome(image_id, "kept")
    try:
        return load(job, image_id)
    except UserError as error:
        return Outcome(image_id, "failed", str(error))


def finish(
    job: CrfJob,
    finished: Collection[str],
    record_of: Callable[[Sharpened], str],
    image: Sharpened | Outcome,
) -> tuple[Outcome, np.ndarray | None]:
    """Write the mask of an image, unless it is finished, and score it.

    Returns what became of it, and its confusion matrix (1, C, C+1). The mask does not wait for the ground truth.
    """
    if isinstance(image, Outcome):
        return image, None
    try:
        if job.out_dir and image.id not in finished:
            mask = masks.confident(image.labels, image.probabilities, job.confidence)
            masks.write_mask(job.target(image.id), mask, job.palette, record_of(image))
        status = "kept" if image.id in finished else "made"
        return Outcome(image.id, status), _scored(job, image.id, image.labels)
    except UserError as error:
        return Outcome(image.id, "failed", str(error)), None


def _scored(job: CrfJob, image_id: str, labels: np.ndarray) -> np.ndarray | None:
    if job.truth is None:
        return None
    truth = read_truth(job.truth, image_id, job.num_classes + 1)
    check_shape(find_image(job.images, image_id), labels.shape, truth)
    return confusion_matrix(truth, labels, job.num_classes + 1)[None]


def load(job: CrfJob, image_id: str) -> Ready:
    """The photo and the maps of an image; raises UserError when they do not go together."""
    cam_file = job.cam_file(image_id)
    keys, maps = load_cams(cam_file, job.cam_type, job.num_classes)
    rgb = np.asarray(read_image(find_image(job.images, image_id)))
    if rgb.shape[:2] != maps.shape[1:]:
        raise UserError(f"{cam_file}: made for an image of size {maps.shape[1:]}, this one has {rgb.shape[:2]}")
    return Ready(image_id, rgb, keys, maps)


def refine(job: CrfJob, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) uint8 and probabilities (k+1, H, W) of one image after the CRF (clip_es section 6)."""
    image = load(job, image_id)
    return sharpen(job, image.rgb, image.keys, image.maps)


def sharpen(job: CrfJob, rgb: np.ndarray, keys: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same from what is in memory: rgb (H, W, 3) uint8, keys (k,), maps (k, H, W) float32 in [0, 1]."""
    probabilities = dense_crf(_crf_image(job, rgb), masks.with_background(maps), job.crf, job.backend)
    return masks.labels_of(probabilities, keys), probabilities


def _crf_image(job: CrfJob, rgb: np.ndarray) -> np.ndarray:
    return reference_image(rgb) if job.crf_image == "reference" else rgb
