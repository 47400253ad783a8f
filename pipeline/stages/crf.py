"""The loop of eval_cam_with_crf.py: CAM files + images -> masks, and scores where there is ground truth.

Its steps: `prepare_input` (photo and maps), `sharpen_all` (DenseCRF), `finish` (mask and score). scripts/run.py and
scripts/segment.py take the same steps with maps that are not in a file.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.errors import StopRun, UserError
from common.files import check_output
from common.images import image_size, one_at_a_time, read_at, working_size
from common.limits import MANY_LABELS, MAX_PIXELS, most_pixels
from common.memory import out_of_memory
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import OF_ONE_IMAGE, REGIONS, SOURCE, VOTERS, can_stay, record_text, source_of
from common.version import VERSION
from dataset.mask_folder import Masks, mask_folder
from dataset.mask_png import confidence_text, write_mask
from dataset.voc_layout import find_image
from pipeline.crf.dense_crf import dense_crf, dense_crf_batch, reference_image
from pipeline.crf.settings import CrfSettings
from pipeline.files.cam_file import StoredMaps, read_maps, read_record
from pipeline.stages.evaluate import (
    CHECKING,
    Scored,
    Totals,
    add_up,
    check_one_way,
    check_shape,
    confusion_of,
    mask_record,
    read_truth,
)
from pipeline.stages.failure import failure
from pipeline.stages.kept_score import kept_confusion, score_text
from pipeline.stages.refine import CRF, NO_MASKS, PAMR, PROMPTS, SAM, PromptSettings, Votes, asked, moved_by_colours
from pipeline.steps import masks
from pipeline.steps.maps import enlarge_labels
from pipeline.steps.masks import labels_of
from pipeline.steps.regions import Regions
from pipeline.steps.votes import majority, sureness, voted, win

FORMAT = 4  # of the record in a mask
GROUP = 8  # images that go to the device together
SHRUNK = "worked on at a smaller size (--max_pixels)"
MOST_PROBABILITIES = 1 << 27  # that are shown at full size, of all classes; 0.5 GB
ON_CPU = "CRF on the CPU, out of GPU memory"
GPU_FILES = ("nvidiactl", "nvidia0", "kfd", "dxg", "nvhost-gpu")  # in /dev
REMEDY = "pass --overwrite or another --pseudo_mask_save_path"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CrfJob:
    """Masks of all images of a run.

    cams, images    folders of CAM files and images
    out_dir         folder of the masks, or None to write none
    truth           the ground-truth masks, or None to score nothing
    crf_image       "rgb", or "reference": mean-subtracted, wrapped BGR (docs/methods.md)
    backend         "numba", "torch" or "pydensecrf"
    device          where the backend torch computes; "auto": a GPU if there is one
    max_pixels      larger images are worked on at a smaller size (common.images.working_size); of more than
                    common.limits.MANY_LABELS labels, images are as much smaller as there are more labels
    max_side        so are those with a longer side; None: no limit
    smooth          probabilities of such images are scaled up bilinearly before each pixel takes its best class, for
                    smooth borders; else the labels are scaled up by nearest neighbour, which takes less memory
    has_background  mask value 0 is the background, else it is the first class
    mask_ending     behind an image's id in the name of its mask
    steps           what refines the maps, in order, of pipeline.stages.refine.STEPS; (): nothing
    votes           the masks that vote, where one of the steps is "sam"
    prompts         of the step "prompts"
    """

    cams: Path
    images: Path
    out_dir: Path | None
    truth: Masks | None
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
    max_side: int | None = None
    smooth: bool = False
    has_background: bool = True
    mask_ending: str = ".png"
    steps: tuple[str, ...] = ("crf",)
    votes: Votes | None = None
    prompts: PromptSettings | None = None

    @property
    def votes_last(self) -> bool:
        return self.steps[-1:] == (SAM,)

    @property
    def num_labels(self) -> int:
        return self.num_classes + int(self.has_background)

    def empty_totals(self) -> Totals:
        return Totals(np.zeros((1, self.num_labels, self.num_labels + 1), np.int64))

    def cam_file(self, image_id: str) -> Path:
        return self.cams / f"{image_id}.npz"

    def truth_file(self, image_id: str) -> Path:
        """The ground truth of an image; only with a folder of them."""
        assert self.truth is not None
        return mask_folder(self.truth).path(image_id)

    @property
    def truth_how(self) -> str:
        """What the values of the ground truth stand for, for records."""
        return mask_folder(self.truth).how if self.truth is not None else ""

    def target(self, image_id: str) -> Path:
        """Where the mask goes; only with an `out_dir`."""
        assert self.out_dir is not None
        return self.out_dir / f"{image_id}{self.mask_ending}"

    def settings(self, cams_made_by: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the record that all masks of a run share, for maps with such a record."""
        common = {key: value for key, value in cams_made_by.items() if key not in OF_ONE_IMAGE}
        return {
            "format": FORMAT,
            "code": VERSION,
            "cams": hashlib.sha256(record_text(common).encode()).hexdigest()[:16],
            "cam_type": self.cam_type,
            "crf_image": self.crf_image,
            "confidence": self.confidence,
            "palette": self.palette,
            "max_pixels": self.max_pixels,
            **({"max_side": self.max_side} if self.max_side else {}),
            **({"smooth": True} if self.smooth else {}),
            **({"refine": ",".join(self.steps) or "none"} if self.steps != ("crf",) else {}),
            **(self.votes.settings() if self.votes else {}),
            **(self.prompts.record() if self.prompts else {}),
            **asdict(self.crf),
        }

    def record(
        self, image_id: str, cams_made_by: Mapping[str, Any], keys: Iterable[int], source: str
    ) -> dict[str, Any]:
        """The record of a mask. Raises UserError where masks vote and those of this image are missing."""
        regions = {REGIONS: cams_made_by[REGIONS]} if REGIONS in cams_made_by else {}
        voters = {VOTERS: source_of(self.votes.file(image_id))} if self.votes else {}
        return {**self.settings(cams_made_by), "keys": [int(key) for key in keys], SOURCE: source, **regions, **voters}

    def working_size(self, size: tuple[int, int], classes: int = 1) -> tuple[int, int]:
        """(H', W') at which a photo of (H, W) pixels that may show so many classes is worked on."""
        longest, most = max(size), most_pixels(self.max_pixels, classes + int(self.has_background))
        if self.max_side is not None and longest > self.max_side:
            height, width = (max(1, round(side * self.max_side / longest)) for side in size)
            return working_size((height, width), most)
        return working_size(size, most)


def backend_for(device: str) -> str:
    """The DenseCRF that suits `--device`: "torch" on a GPU, else "numba".

    Torch is imported only where a device file says that there may be a GPU that it calls CUDA (NVIDIA, ROCm, WSL,
    Jetson).
    """
    if device == "cpu" or (device == "auto" and not any(Path("/dev", name).exists() for name in GPU_FILES)):
        return "numba"
    from clip.device import pick_device

    return "torch" if pick_device(device).type == "cuda" else "numba"


def record_of(job: CrfJob, image_id: str) -> tuple[Path, dict[str, Any]]:
    """The photo of an image, and the record of a mask that is made of it and its CAM file as they are now."""
    cams = read_record(job.cam_file(image_id))
    photo = find_image(job.images, image_id)
    return photo, job.record(image_id, cams, cams["keys"], source_of(photo))


def finished_ids(
    job: CrfJob, ids: Iterable[str], expected: Callable[[str], tuple[Path, dict[str, Any]]] | None = None
) -> set[str]:
    """Ids whose mask is whole, of the photo's size, and has the record that it would get now.

    expected  returns the photo and that record for an id; None: `record_of`
    Damaged masks, and those of photos that were replaced, count as missing. Raises UserError when a mask was made in
    another way.
    """
    expected = expected or partial(record_of, job)

    def is_finished(image_id: str) -> bool:
        mask = job.target(image_id)
        try:
            record = mask_record(mask)
            photo, expected_record = expected(image_id)
            same_size = image_size(photo) == image_size(mask)
        except UserError:
            return False
        return can_stay(mask, record, expected_record, REMEDY) and same_size

    checked = list(ids) if job.out_dir and not job.overwrite else []
    results = ordered_map(is_finished, checked, CHECKING, ahead=16)
    return {image_id for image_id, done in zip(checked, results) if done}


def settled_ids(job: CrfJob, finished: set[str]) -> set[str]:
    """The finished ids that need no CRF: nothing is scored, or the mask keeps the score against the same truth."""
    if job.truth is None:
        return finished
    checked = sorted(finished)
    scores = ordered_map(partial(_kept_score, job), checked, CHECKING, ahead=16)
    return {image_id for image_id, confusion in zip(checked, scores) if confusion is not None}


def _kept_score(job: CrfJob, image_id: str) -> np.ndarray | None:
    return kept_confusion(job.target(image_id), job.truth_file(image_id), job.num_labels, job.truth_how)


@dataclass(frozen=True)
class CrfInput:
    """One image before the CRF, at the size at which it is worked on.

    rgb     (H', W', 3) uint8
    keys    (k,) class indices
    maps    (k, H', W') float32
    size    (H, W) of the photo, and of its mask
    record  of the mask that is made of this: it belongs to these maps and this photo, and travels with them
    cams    the record of the maps; empty when they have none
    kind    of the maps, one of pipeline.steps.kinds.KINDS
    notes   what people should know of how it was made
    voters  the masks that vote, at the size of the photo
    """

    id: str
    photo: Path
    rgb: np.ndarray
    keys: np.ndarray
    maps: np.ndarray
    size: tuple[int, int]
    record: Mapping[str, Any]
    cams: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "cam"
    notes: tuple[str, ...] = ()
    voters: Regions | None = None


@dataclass(frozen=True)
class CrfResult:
    """The same after it: labels (H', W') uint8 and probabilities (k+1, H', W'), or k without background.

    numbers  (H', W') uint16, the mask whose vote decided a pixel at last; None where no vote comes last
    """

    input: CrfInput
    labels: np.ndarray
    probabilities: np.ndarray
    notes: tuple[str, ...] = ()
    numbers: np.ndarray | None = None


def prepare_input(job: CrfJob, image_id: str, photo: Path, stored: StoredMaps, notes: tuple[str, ...] = ()) -> CrfInput:
    """The photo and its maps, at the size at which they are worked on.

    Raises UserError when the photo was replaced since its maps were made, and when there are neither labels nor a
    background.
    """
    made_by, size = stored.made_by, stored.size
    if not len(stored.keys) and not job.has_background:
        raise UserError(f"{photo}: no labels, and the data set has no background: no mask can be made")
    source = source_of(photo)
    if image_size(photo) != size:
        raise UserError(f"{photo}: of size {image_size(photo)}, and its maps were made for {size}; make the CAMs again")
    if made_by.get(SOURCE, source) != source:
        raise UserError(f"{photo}: another photo than its maps were made of; run generate_cams.py again")
    working = job.working_size(size, len(stored.keys))
    rgb = np.asarray(read_at(photo, lambda size: job.working_size(size, len(stored.keys))))
    if rgb.shape[:2] != working:
        raise UserError(f"{photo}: replaced by another one meanwhile; repeat the command")
    voters = job.votes.read(image_id, size) if job.votes else None
    record, maps = job.record(image_id, made_by, stored.keys, source), stored.resized(working)
    return CrfInput(image_id, photo, rgb, stored.keys, maps, size, record, made_by, stored.kind, notes, voters)


def load(job: CrfJob, image_id: str) -> CrfInput:
    """The photo and the maps of a CAM file; raises UserError when they do not go together."""
    photo = find_image(job.images, image_id)
    return prepare_input(job, image_id, photo, read_maps(job.cam_file(image_id), job.cam_type, job.num_classes))


def run(job: CrfJob, ids: Sequence[str], totals: Totals, threads: int) -> Iterator[Outcome]:
    """Refine every image, write its mask, add its scores to the totals; one outcome an image.

    Raises UserError before any work when a mask that is there was made in another way, and for CAM files that were made
    in different ways.
    """
    if job.out_dir is not None:
        check_one_way(job.cams, ids)
    finished = finished_ids(job, ids)
    settled = settled_ids(job, finished)

    def load_one(image_id: str) -> CrfInput | Outcome:
        if image_id in settled:
            return Outcome(image_id, "kept")
        try:
            return load(job, image_id)
        except Exception as error:
            return failure(image_id, error)

    yield from add_up(sharpen_all(job, ids, load_one, partial(finish, job, finished), threads), totals)


def sharpen_all(
    job: CrfJob,
    items: Iterable[Item],
    load: Callable[[Item], CrfInput | Outcome],
    finish: Callable[[CrfResult | Outcome], Result],
    threads: int,
) -> Iterator[Result]:
    """Load, sharpen and finish every item, in order, a bounded number of them under way.

    All three in threads, image by image; on a device, groups are sharpened in the caller's thread between the others.
    """
    if job.backend == "torch" and CRF in job.steps:
        ahead = max(2, GROUP * MANY_LABELS // max(job.num_labels, MANY_LABELS))  # many labels take much memory
        return ordered_map(finish, _sharpened_on_device(job, ordered_map(load, items, threads, ahead=ahead)), threads)

    def work(item: Item) -> Result:
        image = load(item)
        if isinstance(image, Outcome):
            return finish(image)
        try:
            return finish(sharpen(job, image))
        except UserError:  # not of the image, but of the backend or the device
            raise
        except Exception as error:
            return finish(failure(image.id, error))

    return ordered_map(work, items, threads)


def sharpen(job: CrfJob, image: CrfInput, backend: str = "", *notes: str) -> CrfResult:
    """One image after all steps; `backend` in place of the job's."""
    return _result(job, image, _refined(job, image, _scores(job, image), job.steps, backend), *notes)


def _scores(job: CrfJob, image: CrfInput) -> np.ndarray:
    """(k+1, H', W') that the steps begin with, or k without background."""
    return masks.contest(image.maps, image.kind, job.has_background, sharp=True)


def _refined(job: CrfJob, image: CrfInput, scores: np.ndarray, steps: Sequence[str], backend: str = "") -> np.ndarray:
    """The scores after some of the steps; a vote that comes last of all is `_result`'s."""
    for step in steps:
        if step == CRF:
            scores = dense_crf(_crf_image(job, image.rgb), scores, job.crf, backend or job.backend)
        elif step == PAMR:
            scores = moved_by_colours(scores, image.rgb, job.device)
        elif step == PROMPTS:
            assert job.prompts is not None
            places = asked(scores, image.rgb, int(job.has_background), job.prompts, job.device)
            scores = win(scores, places.astype(np.uint8), np.arange(len(scores)))
        elif not job.votes_last:
            labels, _ = _voted(job, image, labels_of(scores, image.keys, job.has_background))
            scores = win(scores, labels, masks.mask_values(image.keys, job.has_background))
    return scores


def _voted(job: CrfJob, image: CrfInput, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert image.voters is not None and job.votes is not None
    return voted(labels, image.voters, job.votes.rule, job.has_background)


def _result(job: CrfJob, image: CrfInput, probabilities: np.ndarray, *notes: str) -> CrfResult:
    labels, numbers = labels_of(probabilities, image.keys, job.has_background), None
    if job.votes_last:
        labels, numbers = _voted(job, image, labels)
    shrunk = (SHRUNK,) if labels.shape != image.size and not job.smooth else ()
    silent = (NO_MASKS,) if image.voters is not None and not len(image.voters) else ()
    return CrfResult(image, labels, probabilities, (*image.notes, *shrunk, *silent, *notes), numbers)


def _sharpened_on_device(job: CrfJob, images: Iterator[CrfInput | Outcome]) -> Iterator[CrfResult | Outcome]:
    while group := list(_group(job, images)):
        results = iter(_group_on_device(job, [image for image in group if isinstance(image, CrfInput)]))
        yield from (image if isinstance(image, Outcome) else next(results) for image in group)


def _group(job: CrfJob, images: Iterator[CrfInput | Outcome]) -> Iterator[CrfInput | Outcome]:
    """The next images that go to the device together: GROUP at most, and fewer where they have many labels."""
    values = 0
    for image in islice(images, GROUP):
        yield image
        values += image.maps.size if isinstance(image, CrfInput) else 0
        if values >= job.max_pixels * MANY_LABELS:
            return


def _group_on_device(job: CrfJob, images: Sequence[CrfInput]) -> list[CrfResult | Outcome]:
    """A group at once; where that fails, its halves, down to one image. The CPU takes what no GPU memory can hold."""
    import torch

    try:
        before, after = job.steps[: job.steps.index(CRF)], job.steps[job.steps.index(CRF) + 1 :]
        scores = [_refined(job, image, _scores(job, image), before) for image in images]
        results = dense_crf_batch([_crf_image(job, image.rgb) for image in images], scores, job.crf, job.device)
        return [_result(job, image, _refined(job, image, one, after)) for image, one in zip(images, results)]
    except (UserError, StopRun):
        raise
    except Exception as error:
        failed = error.with_traceback(None)  # else it would hold on to the memory that is missing
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(images) > 1:
        middle = len(images) // 2
        return [*_group_on_device(job, images[:middle]), *_group_on_device(job, images[middle:])]
    image = images[0]
    if not out_of_memory(failed):
        return [failure(image.id, failed)]
    try:
        return [sharpen(job, image, "numba", ON_CPU)]
    except Exception as error:
        return [failure(image.id, error)]


def _crf_image(job: CrfJob, rgb: np.ndarray) -> np.ndarray:
    return reference_image(rgb) if job.crf_image == "reference" else rgb


def finish(job: CrfJob, finished: Collection[str], result: CrfResult | Outcome) -> Scored:
    """Score an image and write its mask, unless it is finished; the mask keeps the score.

    Without ground truth for the image the mask is written all the same, and the image fails.
    """
    if isinstance(result, Outcome):
        return _settled(job, result)
    image = result.input
    kept = image.id in finished
    confusion, trouble = None, None
    try:
        with one_at_a_time(image.size[0] * image.size[1]):
            labels, mask = full_size(job, result)
            if job.truth is not None:
                try:
                    truth = read_truth(job.truth, image.id, job.num_labels)
                    check_shape(image.photo, image.size, truth)
                    confusion = confusion_of(truth, labels, job.num_labels)
                except Exception as error:
                    trouble = error
            if job.out_dir and not kept:
                score = "" if confusion is None else score_text(confusion, job.truth_file(image.id), job.truth_how)
                target = check_output(job.target(image.id), job.out_dir)
                confidence = confidence_text(masks.mean_confidence(result.labels, result.probabilities))
                write_mask(target, mask, job.palette, record_text(image.record), score, confidence)
    except Exception as error:
        trouble = error
    if trouble is not None:
        return Scored(failure(image.id, trouble))
    outcome = Outcome(image.id, "kept" if kept else "made", note="" if kept else "; ".join(result.notes))
    return Scored(outcome, confusion, job.cam_file(image.id), image.cams)


def _settled(job: CrfJob, outcome: Outcome) -> Scored:
    """An image that had no CRF: it failed, or its mask is there and keeps the score."""
    if outcome.status != "kept" or job.truth is None:
        return Scored(outcome)
    confusion = _kept_score(job, outcome.id)
    if confusion is None:
        changed = f"{job.target(outcome.id)}: the mask or its ground truth was replaced meanwhile; repeat the command"
        return Scored(failure(outcome.id, UserError(changed)))
    return Scored(outcome, confusion)


def full_size(job: CrfJob, result: CrfResult) -> tuple[np.ndarray, np.ndarray]:
    """Labels before the 255s, and the mask, both (H, W) uint8 at the size of the photo.

    Where a vote comes last, a region of which more than half is unsure becomes 255, and no part of another one.
    """
    image, numbers = result.input, result.numbers
    if result.labels.shape == image.size or not job.smooth:
        mask = masks.confident(result.labels, result.probabilities, job.confidence)
        mask = mask if numbers is None else majority(mask, numbers)
        return enlarge_labels(result.labels, image.size), enlarge_labels(mask, image.size)
    labels, highest = masks.smooth_labels(result.probabilities, image.keys, image.size, job.has_background)
    if numbers is not None:
        labels, numbers = _voted(job, image, labels)
    mask = masks.confident(labels, highest[None], job.confidence)
    return labels, mask if numbers is None else majority(mask, numbers)


def refine(job: CrfJob, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) uint8 and probabilities (k+1, H, W) of one image after all steps, for pictures.

    Where a vote comes last, (1, H, W) how sure each pixel is. Both at the size of the photo, like its mask. Raises
    UserError for an image too large for that.
    """
    image = load(job, image_id)
    if len(image.keys) * image.size[0] * image.size[1] > MOST_PROBABILITIES:
        raise UserError(f"{image_id}: {image.size[1]} x {image.size[0]} pixels are too many to show its probabilities")
    result = sharpen(job, image)
    probabilities = result.probabilities
    if result.numbers is not None:
        probabilities = sureness(probabilities.max(axis=0), result.numbers)[None]
    return enlarge_labels(result.labels, image.size), enlarge_labels(probabilities, image.size)
