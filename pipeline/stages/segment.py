"""All stages for one photo, in memory: photo + labels -> CAMs, refined CAMs, mask. The work of scripts/segment.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clip.image import prepare_image
from clip.load import Clip
from common.files import atomic_write
from common.images import LARGE, image_size, read_within, working_size
from common.limits import MAX_PIXELS
from dataset import mask_png
from pipeline.crf.dense_crf import CrfSettings, dense_crf, reference_image
from pipeline.methods.table import METHODS, CamSettings, TextSet, compute_maps
from pipeline.methods.tagclip import TagSettings, choose_labels
from pipeline.stages import tags as stage_tags
from pipeline.steps import masks
from pipeline.steps.kinds import to_heat
from pipeline.steps.maps import enlarge_labels, resize_maps
from pipeline.steps.tensors import to_numpy
from report.photo_sheet import PhotoRoad, photo_sheet, shares
from report.pictures import label_overlay

KINDS = ("mask", "overlay", "steps")  # the pictures of a photo


@dataclass(frozen=True)
class SegmentSettings:
    """What the stages may be told; defaults as theirs.

    max_side    photos are shrunk until no side is longer, for CLIP and the CRF: both were tuned on images of some 500
                pixels, and the affinity's memory grows with the fourth power of the side
    max_pixels  they are also shrunk to so many pixels, where that is less
    The mask's file has the photo's size whatever these are.
    """

    cam: CamSettings = field(default_factory=CamSettings)
    crf: CrfSettings = field(default_factory=CrfSettings)
    crf_image: str = "rgb"
    backend: str = "numba"
    confidence: float = masks.CONFIDENCE
    max_side: int = 640
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Segmented:
    """One photo's results; H W is its size as it was read, H' W' the one it was worked on.

    keys    (k,) class indices
    rgb     (H', W', 3) uint8
    cam     (k, H', W') float32 in [0, 1], before the affinity
    attn    the same, after it
    labels  (H, W) uint8: class index + 1, background 0, before the 255s
    mask    (H, W) uint8: the labels, 255 where the CRF is not sure enough
    """

    keys: np.ndarray
    rgb: np.ndarray
    cam: np.ndarray
    attn: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class PhotoJob:
    """Everything that is the same for all photos of a run.

    label_names  by mask value, background first
    text         embeddings for the CAMs
    labels       (k,) class indices, or None: CLIP supplies them
    tag_text     embeddings for that; None where the labels are given
    made_by      what makes two masks comparable; stored in each
    """

    clip: Clip
    label_names: Sequence[str]
    text: TextSet
    labels: tuple[int, ...] | None
    tag_text: TextSet | None = None
    settings: SegmentSettings = field(default_factory=SegmentSettings)
    tags: TagSettings = field(default_factory=TagSettings)
    made_by: str = ""


def run(job: PhotoJob, photo: Path, files: Mapping[str, Path]) -> str:
    """Segment one photo and write its pictures, one of each of KINDS; returns what the mask holds, for people.

    Raises UserError for a photo that cannot be read.
    """
    size, image = image_size(photo), read_within(photo, LARGE)
    labels, notes = _labels(job, image)
    done = segment(job.clip, job.text, image, labels, job.settings)
    mask_png.write_mask(files["mask"], enlarge_labels(done.mask, size), made_by=job.made_by)
    _write(files["overlay"], Image.fromarray(label_overlay(np.asarray(image), done.mask)))
    road = PhotoRoad(done.rgb, done.mask, done.keys, done.cam, done.attn, notes)
    _write(files["steps"], photo_sheet(road, job.label_names))
    held = ", ".join(f"{name} {100 * share:.1f} %" for _, name, share in shares(done.mask, job.label_names))
    by_clip = ", ".join(f"{job.label_names[label + 1]} {note}" for label, note in zip(labels, notes))
    return f"{held}   (labels by CLIP: {by_clip})" if notes else held


def _labels(job: PhotoJob, photo: Image.Image) -> tuple[tuple[int, ...], list[str]]:
    """The labels of a photo, and their scores as texts where CLIP supplied them."""
    if job.labels is not None or job.tag_text is None:
        return job.labels or (), []
    small = shrink(photo, job.settings.max_side, job.settings.max_pixels)
    image = prepare_image(small, job.clip.patch_size).to(job.clip.device)
    scores = stage_tags.class_scores(job.clip, image, job.tag_text, job.tags)
    labels = choose_labels(scores, job.tags.label_share)
    return labels, [f"{scores[label]:.2f}" for label in labels]


def _write(path: Path, picture: Image.Image) -> None:
    with atomic_write(path) as stream:
        picture.save(stream, "PNG", pnginfo=mask_png.made_here())


# --- the stages -----------------------------------------------------------------------------------


def segment(
    clip: Clip, text: TextSet, photo: Image.Image, labels: Sequence[int], settings: SegmentSettings
) -> Segmented:
    """Run all stages on an upright RGB photo. With `max_side` at or above its sides: the bytes the stages write."""
    keys = np.array(labels, np.int64)
    small = shrink(photo, settings.max_side, settings.max_pixels)
    cam, attn = _maps(clip, text, small, labels, settings.cam)
    rgb = np.asarray(small)
    image = reference_image(rgb) if settings.crf_image == "reference" else rgb
    kind = METHODS[settings.cam.method].kind(settings.cam)
    probabilities = dense_crf(image, masks.contest(attn, kind), settings.crf, settings.backend)
    best, highest = labels_at(probabilities, keys, (photo.height, photo.width))
    cam, attn = to_heat(cam, kind), to_heat(attn, kind)
    return Segmented(keys, rgb, cam, attn, best, masks.confident(best, highest[None], settings.confidence))


def shrink(photo: Image.Image, max_side: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The photo, or a smaller copy (antialiased) whose longer side is `max_side`, or less for `max_pixels`."""
    longest = max(photo.size)
    width, height = (max(1, round(side * min(max_side, longest) / longest)) for side in photo.size)
    height, width = working_size((height, width), max_pixels)
    return photo if photo.size == (width, height) else photo.resize((width, height), Image.Resampling.LANCZOS)


def _maps(
    clip: Clip, text: TextSet, image: Image.Image, labels: Sequence[int], settings: CamSettings
) -> tuple[np.ndarray, np.ndarray]:
    """(cam, attn), each (k, H', W'), through the float16 in which a CAM file would hold them."""
    how = METHODS[settings.method].preparation(clip, settings)
    batch = prepare_image(image, clip.patch_size, how=how)[None].to(clip.device)
    pair = compute_maps(clip, batch, [labels], text, settings)[0]
    cam, attn = (resize_maps(to_numpy(maps).astype(np.float16), (image.height, image.width)) for maps in pair)
    return cam, attn


def labels_at(probabilities: np.ndarray, keys: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(k+1, H', W') probabilities to labels (H, W) uint8 and the highest probability (H, W) float32.

    Scaled up bilinearly before the argmax, so that borders are smooth; one class at a time, so that a large photo
    with many classes fits into memory.
    """
    labels, highest = np.zeros(size, np.uint8), np.full(size, -1, np.float32)
    for value, plane in zip((0, *(int(key) + 1 for key in keys)), probabilities):
        if plane.shape != size:
            plane = cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
        labels[plane > highest] = value
        np.maximum(highest, plane, out=highest)
    return labels, highest
