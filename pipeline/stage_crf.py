"""The loop of eval_cam_with_crf.py: CAM files + images -> masks, and scores where there is ground truth.

May import the steps and common.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.console import Outcome
from common.errors import UserError
from common.images import read_image
from common.parallel import ordered_map
from dataset.voc_layout import find_image
from pipeline import masks
from pipeline.crf import CrfSettings, dense_crf, reference_image
from pipeline.scores import confusion_matrix
from pipeline.stage_eval import Totals, check_shape, read_truth
from pipeline.storage import load_cams, read_made_by

FORMAT = 1  # of the record in a mask


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

    def record(self, cam_file: Path) -> str:
        """What makes two masks comparable; stored in each as JSON."""
        source = json.dumps(read_made_by(cam_file), sort_keys=True)
        made_by: dict[str, Any] = {
            "format": FORMAT,
            "cams": hashlib.sha256(source.encode()).hexdigest()[:16],
            "cam_type": self.cam_type,
            "crf_image": self.crf_image,
            "confidence": self.confidence,
            "palette": self.palette,
            **asdict(self.crf),
        }
        return json.dumps(made_by, sort_keys=True)


def run(job: CrfJob, ids: Sequence[str], totals: Totals, threads: int) -> Iterator[Outcome]:
    """Refine every image, write its mask, add its scores to the totals; one outcome an image."""
    for image_id, status, result in ordered_map(lambda image_id: _one(job, image_id), ids, threads):
        if isinstance(result, str):
            yield Outcome(image_id, status, result)
            continue
        if result is not None:
            totals.add(result)
        yield Outcome(image_id, status)


def _one(job: CrfJob, image_id: str) -> tuple[str, str, np.ndarray | str | None]:
    """(id, status, confusion matrix (1, C, C+1) or None or the reason of a failure)."""
    try:
        cam_file = job.cams / f"{image_id}.npz"
        target = job.out_dir / f"{image_id}.png" if job.out_dir else None
        kept = target is not None and not job.overwrite and _already_made(target, job.record(cam_file))
        if kept and job.truth is None:
            return image_id, "kept", None
        truth = read_truth(job.truth, image_id) if job.truth else None
        labels, probabilities = refine(job, image_id, cam_file)
        if truth is not None:
            check_shape(cam_file, labels.shape, truth)
        if target is not None and not kept:
            mask = masks.confident(labels, probabilities, job.confidence)
            masks.write_mask(target, mask, job.palette, job.record(cam_file))
        scored = None if truth is None else confusion_matrix(truth, labels, job.num_classes + 1)[None]
        return image_id, "kept" if kept else "made", scored
    except UserError as error:
        return image_id, "failed", str(error)


def refine(job: CrfJob, image_id: str, cam_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) uint8 and probabilities (k+1, H, W) of one image after the CRF (clip_es section 6)."""
    keys, maps = load_cams(cam_file, job.cam_type, job.num_classes)
    rgb = np.asarray(read_image(find_image(job.images, image_id)))
    if rgb.shape[:2] != maps.shape[1:]:
        raise UserError(f"{cam_file}: made for an image of size {maps.shape[1:]}, this one has {rgb.shape[:2]}")
    image = reference_image(rgb) if job.crf_image == "reference" else rgb
    probabilities = dense_crf(image, masks.with_background(maps), job.crf, job.backend)
    return masks.labels_of(probabilities, keys), probabilities


def _already_made(path: Path, record: str) -> bool:
    """Whether a whole mask with the same record is there; raises UserError when it was made in another way."""
    try:
        found = masks.mask_made_by(path)
    except UserError:
        return False  # none, or a damaged one: make it
    if found != record:
        raise UserError(f"{path}: made with other settings; pass --overwrite or another --pseudo_mask_save_path")
    return True
