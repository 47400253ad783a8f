"""The loop of eval_cam_with_crf.py: CAM files + images -> masks, and scores where there is ground truth.

May import the steps and common.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.console import Outcome
from common.errors import UserError
from common.images import image_size, read_image
from common.parallel import ordered_map
from dataset.voc_layout import find_image
from pipeline import masks
from pipeline.crf import CrfSettings, dense_crf, reference_image
from pipeline.scores import confusion_matrix
from pipeline.stage_eval import Totals, check_shape, read_truth
from pipeline.storage import load_cams, read_origin

FORMAT = 2  # of the record in a mask


@dataclass(frozen=True)
class CrfJob:
    """Everything that is the same for all images of a run.

    cams, images  folders of CAM files and images
    out_dir       folder of the masks, or None to write none
    truth         folder of ground-truth masks, or None to score nothing
    crf_image     "rgb", or "reference": mean-subtracted, wrapped BGR (clip_es section 6)
    backend       "numba" or "pydensecrf"
    """

    cams: Path
    images: Path
    out_dir: Path | None
    truth: Path | None
    num_classes: int
    cam_type: str = "attn_highres"
    crf_image: str = "rgb"
    backend: str = "numba"
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


def run(job: CrfJob, ids: Sequence[str], totals: Totals, threads: int) -> Iterator[Outcome]:
    """Refine every image, write its mask, add its scores to the totals; one outcome an image.

    Raises UserError before any work when a mask that is there was made in another way.
    """
    finished = finished_ids(job, ids)
    for outcome, confusion in ordered_map(lambda image_id: _one(job, image_id, image_id in finished), ids, threads):
        if confusion is not None:
            totals.add(confusion)
        yield outcome


def _one(job: CrfJob, image_id: str, kept: bool) -> tuple[Outcome, np.ndarray | None]:
    """What became of one image, and its confusion matrix (1, C, C+1). The mask does not wait for the ground truth."""
    try:
        if kept and job.truth is None:
            return Outcome(image_id, "kept"), None
        labels, probabilities = refine(job, image_id, job.cam_file(image_id))
        if job.out_dir and not kept:
            mask = masks.confident(labels, probabilities, job.confidence)
            masks.write_mask(job.target(image_id), mask, job.palette, job.record_of(image_id))
        return Outcome(image_id, "kept" if kept else "made"), _scored(job, image_id, labels)
    except UserError as error:
        return Outcome(image_id, "failed", str(error)), None


def _scored(job: CrfJob, image_id: str, labels: np.ndarray) -> np.ndarray | None:
    if job.truth is None:
        return None
    truth = read_truth(job.truth, image_id, job.num_classes + 1)
    check_shape(job.cam_file(image_id), labels.shape, truth)
    return confusion_matrix(truth, labels, job.num_classes + 1)[None]


def refine(job: CrfJob, image_id: str, cam_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) uint8 and probabilities (k+1, H, W) of one image after the CRF (clip_es section 6)."""
    keys, maps = load_cams(cam_file, job.cam_type, job.num_classes)
    rgb = np.asarray(read_image(find_image(job.images, image_id)))
    if rgb.shape[:2] != maps.shape[1:]:
        raise UserError(f"{cam_file}: made for an image of size {maps.shape[1:]}, this one has {rgb.shape[:2]}")
    return sharpen(job, rgb, keys, maps)


def sharpen(job: CrfJob, rgb: np.ndarray, keys: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same from what is in memory: rgb (H, W, 3) uint8, keys (k,), maps (k, H, W) float32 in [0, 1]."""
    image = reference_image(rgb) if job.crf_image == "reference" else rgb
    probabilities = dense_crf(image, masks.with_background(maps), job.crf, job.backend)
    return masks.labels_of(probabilities, keys), probabilities
