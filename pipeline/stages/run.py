"""The loop of scripts/run.py: image to mask in one process, without CAM files, with the bytes of the two stages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common.errors import UserError
from common.images import image_size
from common.outcome import Outcome
from common.parallel import ordered_map
from dataset import mask_png
from dataset.spec import DatasetSpec, Sample
from pipeline.files.cam_file import check_values, in_short, parse_record
from pipeline.methods.table import METHODS, MapPair
from pipeline.stages.batches import Batch
from pipeline.stages.cams import CamJob, computed_batches
from pipeline.stages.crf import CHECKING, CrfJob, Ready, finish, ready, sharpen_all
from pipeline.stages.evaluate import Totals, failure
from pipeline.steps.maps import resize_maps
from pipeline.steps.tensors import to_numpy
from report import scores as report

READING = 2  # batches that are read side by side where no processes read


@dataclass(frozen=True)
class RunJob:
    """Everything that is the same for all images of a run: what both stages would be told.

    cams  nothing is written into its folder
    crf   nothing is read from its folder of CAM files; masks go to its `out_dir`
    """

    cams: CamJob
    crf: CrfJob

    @property
    def kind(self) -> str:
        """What the values of the maps are."""
        return METHODS[self.cams.settings.method].kind(self.cams.settings)

    def record(self, keys: Iterable[int]) -> str:
        """What a mask with these classes says of how it was made: the same as after the way over CAM files."""
        return self.crf.record(self.cams.made_by, keys)


@dataclass(frozen=True)
class Mapped:
    """One image on its way from the model to the CRF: its two maps on the patch grid, and its size (H, W).

    note  what people should know of how the maps were made
    """

    sample: Sample
    size: tuple[int, int]
    pair: MapPair
    note: str = ""


# --- what is there already ------------------------------------------------------------------------


def finished_ids(job: RunJob, samples: Iterable[Sample]) -> set[str]:
    """Ids whose mask is whole and made in the same way; damaged masks and those of replaced images count as missing.

    Raises UserError, showing the difference, when a mask was made in another way or for other labels.
    """
    checked = ordered_map(partial(_is_finished, job), () if job.crf.overwrite else samples, CHECKING, ahead=16)
    return {image_id for image_id, finished in checked if finished}


def _is_finished(job: RunJob, sample: Sample) -> tuple[str, bool]:
    target = job.crf.target(sample.id)
    try:
        found, same_size = mask_png.mask_made_by(target), image_size(target) == image_size(sample.image)
    except UserError:
        return sample.id, False
    _check_same(target, found, job.record(sample.labels))
    return sample.id, same_size  # else the image was replaced


def _check_same(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        hint = "pass --overwrite or another --pseudo_mask_save_path"
        raise UserError(f"{path}: made with other settings: {_difference(found, wanted)}; {hint}")


def _difference(found: str, wanted: str) -> str:
    """The settings in which two records differ. The maps behind a mask are known by a hash, which tells people less."""
    try:
        then, now = parse_record(found), parse_record(wanted)
    except ValueError:
        return "it does not say which"
    words = {"cams": "the maps (model, words, method or --max_side)", "keys": "the labels"}
    differing = [key for key in now if then.get(key) != now[key]]
    return (
        ", ".join(words.get(key, f"{key} {in_short(then.get(key))} (now {now[key]})") for key in differing)
        or "an older form"
    )


# --- the loop -------------------------------------------------------------------------------------


def run(
    job: RunJob, samples: Sequence[Sample], finished: set[str], totals: Totals, threads: int = 2, readers: int = 0
) -> Iterator[Outcome]:
    """Make the missing masks and, with ground truth, add the scores of all to the totals; one outcome an image.

    threads  images that are sharpened and written side by side, behind the model, which runs in the caller's thread
    readers  processes that read images ahead of the model; 0: threads

    A bounded number of images is in memory. Batches are cut from the whole list, as for CAM files. A mask that is
    there saves the model's and the CRF's work only where nothing is scored: scores are of the labels before the 255s,
    which a mask does not hold.
    """
    spared = finished if job.crf.truth is None else set()
    computed = computed_batches(job.cams, samples, spared, READING, readers)
    end = partial(finish, job.crf, finished, lambda image: job.record(image.keys))
    for outcome, confusion in sharpen_all(job.crf, _images(computed), partial(_load, job, finished), end, threads):
        if confusion is not None:
            totals.add(confusion)
        yield outcome


def _images(batches: Iterable[Batch]) -> Iterator[Outcome | Mapped]:
    """Batches taken apart: what became of an image already, or its maps."""
    for batch in batches:
        yield from batch.outcomes
        for sample, size, pair in zip(batch.samples, batch.sizes, batch.maps):
            yield Mapped(sample, size, pair, batch.notes.get(sample.id, ""))


def _load(job: RunJob, finished: set[str], image: Outcome | Mapped) -> Ready | Outcome:
    """What the CRF needs. The photo is read again: that costs less than holding it."""
    if isinstance(image, Outcome):
        return image
    if image.sample.id in finished and job.crf.truth is None:  # computed for the sake of its batch
        return Outcome(image.sample.id, "kept")
    try:
        return _ready(job.crf, image, job.kind)
    except Exception as error:
        return failure(image.sample.id, error)


def _ready(job: CrfJob, image: Mapped, kind: str) -> Ready:
    cam, attn = image.pair
    maps, sample = attn if job.cam_type == "attn_highres" else cam, image.sample
    keys = np.array(sample.labels, np.int64)
    notes = (image.note,) if image.note else ()
    at = partial(from_cam_file, maps, kind=kind)
    try:
        return ready(job, sample.id, sample.image, image.size, keys, at, notes, kind)
    except ValueError as error:
        raise UserError(f"{sample.image}: {error}") from error


def from_cam_file(maps: Tensor, size: tuple[int, int], kind: str = "cam") -> np.ndarray:
    """What a CAM file would give back: maps (k, h, w), through its float16, at another size (k, H, W) float32.

    Raises ValueError for what no CAM file can give back: values that are not finite, or no such kind's.
    """
    stored = to_numpy(maps).astype(np.float16)
    try:
        check_values(stored, kind)
    except ValueError as error:
        raise ValueError(f"its maps hold {error}; damaged weights?") from error
    return resize_maps(stored, size)


# --- scores ---------------------------------------------------------------------------------------


def summary(job: RunJob, spec: DatasetSpec, split: Path, totals: Totals, absent: str = "truth") -> dict[str, Any]:
    """The scores in the form of eval_cam_with_crf.py: of the labels before the 255s, with the settings behind them.

    absent  the rule for absent classes, one of pipeline.steps.scores.ABSENT_RULES
    """
    confusion = totals.confusions[0]
    settings = {
        "crf_image": job.crf.crf_image,
        "crf": job.crf.backend,
        **asdict(job.crf.crf),
        "cam_type": job.crf.cam_type,
        "confidence": job.crf.confidence,
        "cams": dict(sorted(job.cams.made_by.items())),  # sorted, as in a CAM file
    }
    scores = report.scores_of(confusion, absent)
    return report.summary("crf", spec, scores, totals.images, split, confusion, settings=settings)
