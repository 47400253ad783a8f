"""The loop of eval_cam_with_crf.py: CAM files + images -> masks, and scores where there is ground truth."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from clip.device import pick_device
from common.errors import StopRun, UserError
from common.images import image_size, one_at_a_time, read_within, working_size
from common.limits import MAX_PIXELS
from common.memory import out_of_memory
from common.outcome import Outcome
from common.parallel import ordered_map
from common.version import VERSION
from dataset import mask_png
from dataset.voc_layout import find_image
from pipeline.crf.dense_crf import CrfSettings, dense_crf, dense_crf_batch, reference_image
from pipeline.files.cam_file import check_output, read_maps, read_origin
from pipeline.stages.evaluate import Totals, check_shape, confusion_of, failure, read_truth
from pipeline.steps import masks
from pipeline.steps.maps import enlarge_labels

FORMAT = 3  # of the record in a mask
GROUP = 8  # images that go to the device together
CHECKING = 8  # files that are looked at side by side to see what is finished
SHRUNK = "worked on at a smaller size (--max_pixels)"
MOST_PROBABILITIES = 1 << 27  # that are shown at full size, of all classes; 0.5 GB
ON_CPU = "CRF on the CPU, out of GPU memory"

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
    max_pixels    larger images are worked on at a smaller size (common.images.working_size)

    With `has_background` mask value 0 is the background, else it is the first class.
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
    max_pixels: int = MAX_PIXELS
    has_background: bool = True

    @property
    def num_labels(self) -> int:
        return self.num_classes + int(self.has_background)

    def empty_totals(self) -> Totals:
        return Totals(np.zeros((1, self.num_labels, self.num_labels + 1), np.int64))

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
            "code": VERSION,
            "cams": hashlib.sha256(source.encode()).hexdigest()[:16],
            "keys": [int(key) for key in keys],
            "cam_type": self.cam_type,
            "crf_image": self.crf_image,
            "confidence": self.confidence,
            "palette": self.palette,
            "max_pixels": self.max_pixels,
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
    asked = ids if job.out_dir and not job.overwrite else ()
    checked = ordered_map(partial(_is_finished, job), asked, CHECKING, ahead=16)
    return {image_id for image_id, finished in checked if finished}


def _is_finished(job: CrfJob, image_id: str) -> tuple[str, bool]:
    try:
        record, wanted = mask_png.mask_made_by(job.target(image_id)), job.record_of(image_id)
        same_size = image_size(find_image(job.images, image_id)) == image_size(job.target(image_id))
    except UserError:
        return image_id, False
    if record != wanted:
        where = f"{job.target(image_id)}: made with other settings"
        raise UserError(f"{where}; pass --overwrite or another --pseudo_mask_save_path")
    return image_id, same_size  # else the image was replaced


@dataclass(frozen=True)
class Ready:
    """One image before the CRF, at the size at which it is worked on.

    rgb   (H', W', 3) uint8
    keys  (k,) class indices
    maps  (k, H', W') float32
    size  (H, W) of the photo, and of its mask
    notes what people should know of how it was made
    kind  of the maps, one of pipeline.steps.kinds.KINDS
    """

    id: str
    rgb: np.ndarray
    keys: np.ndarray
    maps: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...] = ()
    kind: str = "cam"


@dataclass(frozen=True)
class Sharpened:
    """The same after it: labels (H', W') uint8 and probabilities (k+1, H', W'), or k without background."""

    id: str
    keys: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


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
    try:
        return _as_sharpened(job, image, _probabilities(job, image.rgb, image.maps, job.backend, image.kind))
    except UserError:  # not of the image, but of the backend or the device
        raise
    except Exception as error:
        return failure(image.id, error)


def _as_sharpened(job: CrfJob, image: Ready, probabilities: np.ndarray, *notes: str) -> Sharpened:
    labels = masks.labels_of(probabilities, image.keys, job.has_background)
    shrunk = (SHRUNK,) if labels.shape != image.size else ()
    return Sharpened(image.id, image.keys, labels, probabilities, image.size, (*image.notes, *shrunk, *notes))


def _sharpened_on_device(job: CrfJob, images: Iterator[Ready | Outcome]) -> Iterator[Sharpened | Outcome]:
    while group := list(islice(images, GROUP)):
        done = iter(_group_on_device(job, [image for image in group if isinstance(image, Ready)]))
        yield from (image if isinstance(image, Outcome) else next(done) for image in group)


def _group_on_device(job: CrfJob, images: Sequence[Ready]) -> list[Sharpened | Outcome]:
    """A group at once; where that fails, for want of memory or because of one image, its halves, down to one image."""
    try:
        probs = [masks.contest(image.maps, image.kind, job.has_background) for image in images]
        found = dense_crf_batch([_crf_image(job, image.rgb) for image in images], probs, job.crf, job.device)
        return [_as_sharpened(job, *each) for each in zip(images, found)]
    except (UserError, StopRun):
        raise
    except Exception as error:
        trouble = error.with_traceback(None)  # else it would hold on to the memory that is missing
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(images) == 1:
        return [_alone(job, images[0], trouble)]
    middle = len(images) // 2
    return [*_group_on_device(job, images[:middle]), *_group_on_device(job, images[middle:])]


def _alone(job: CrfJob, image: Ready, trouble: Exception) -> Sharpened | Outcome:
    """One image that fails on the device: on the CPU, if it was memory that was missing."""
    if not out_of_memory(trouble):
        return failure(image.id, trouble)
    try:
        return _as_sharpened(job, image, _probabilities(job, image.rgb, image.maps, "numba", image.kind), ON_CPU)
    except Exception as error:
        return failure(image.id, error)


def _load(job: CrfJob, finished: Collection[str], image_id: str) -> Ready | Outcome:
    if image_id in finished and job.truth is None:
        return Outcome(image_id, "kept")
    try:
        return load(job, image_id)
    except Exception as error:
        return failure(image_id, error)


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
    kept = image.id in finished
    try:
        with one_at_a_time(image.size[0] * image.size[1]):
            if job.out_dir and not kept:
                _write(job, image, record_of(image))
            scored = _scored(job, image)
        return Outcome(image.id, "kept" if kept else "made", note="" if kept else "; ".join(image.notes)), scored
    except Exception as error:
        return failure(image.id, error), None


def _write(job: CrfJob, image: Sharpened, record: str) -> None:
    assert job.out_dir is not None
    mask = masks.confident(image.labels, image.probabilities, job.confidence)
    target = check_output(job.target(image.id), job.out_dir)
    mask_png.write_mask(target, enlarge_labels(mask, image.size), job.palette, record)


def _scored(job: CrfJob, image: Sharpened) -> np.ndarray | None:
    if job.truth is None:
        return None
    truth = read_truth(job.truth, image.id, job.num_labels)
    check_shape(find_image(job.images, image.id), image.size, truth)
    return confusion_of(truth, enlarge_labels(image.labels, image.size), job.num_labels)


def load(job: CrfJob, image_id: str) -> Ready:
    """The photo and the maps of an image; raises UserError when they do not go together."""
    cam_file, photo = job.cam_file(image_id), find_image(job.images, image_id)
    stored, size = read_maps(cam_file, job.cam_type, job.num_classes), image_size(photo)
    if stored.size != size:
        raise UserError(f"{cam_file}: made for an image of size {stored.size}, this one has {size}")
    return ready(job, image_id, photo, size, stored.keys, stored.resized, kind=stored.kind)


def ready(
    job: CrfJob,
    image_id: str,
    photo: Path,
    size: tuple[int, int],
    keys: np.ndarray,
    maps_at: Callable[[tuple[int, int]], np.ndarray],
    notes: tuple[str, ...] = (),
    kind: str = "cam",
) -> Ready:
    """What the CRF needs of a photo of size (H, W), and no more of it than `max_pixels`.

    maps_at  gives the maps at a size, (k, H', W')
    Raises UserError when the photo has another size by now, and when there is nothing that a pixel could be.
    """
    if not len(keys) and not job.has_background:
        raise UserError(f"{photo}: no labels, and the data set has no background: no mask can be made")
    rgb = np.asarray(read_within(photo, job.max_pixels))
    working = working_size(size, job.max_pixels)
    if rgb.shape[:2] != working:
        raise UserError(f"{photo}: replaced by one of another size meanwhile; the same command mends it")
    return Ready(image_id, rgb, keys, maps_at(working), size, notes, kind)


def refine(job: CrfJob, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) uint8 and probabilities (k+1, H, W) of one image after the CRF (clip_es section 6).

    Both at the size of the photo, like its mask. Raises UserError for an image too large for that.
    """
    image = load(job, image_id)
    if len(image.keys) * image.size[0] * image.size[1] > MOST_PROBABILITIES:
        raise UserError(f"{image_id}: {image.size[1]} x {image.size[0]} pixels are too many to show its probabilities")
    labels, probabilities = sharpen(job, image.rgb, image.keys, image.maps, image.kind)
    return enlarge_labels(labels, image.size), enlarge_labels(probabilities, image.size)


def sharpen(
    job: CrfJob, rgb: np.ndarray, keys: np.ndarray, maps: np.ndarray, kind: str = "cam"
) -> tuple[np.ndarray, np.ndarray]:
    """The same from what is in memory: rgb (H, W, 3) uint8, keys (k,), maps (k, H, W) float32 of that kind."""
    probabilities = _probabilities(job, rgb, maps, job.backend, kind)
    return masks.labels_of(probabilities, keys, job.has_background), probabilities


def _probabilities(job: CrfJob, rgb: np.ndarray, maps: np.ndarray, backend: str, kind: str) -> np.ndarray:
    return dense_crf(_crf_image(job, rgb), masks.contest(maps, kind, job.has_background), job.crf, backend)


def _crf_image(job: CrfJob, rgb: np.ndarray) -> np.ndarray:
    return reference_image(rgb) if job.crf_image == "reference" else rgb
