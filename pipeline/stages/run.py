"""From images to masks in one process, without CAM files: the work of scripts/run.py and scripts/segment.py.

The maps go through the rounding of a CAM file, and then along the steps of crf.py, so that the masks have the bytes
that the two stages write.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.outcome import Outcome
from common.provenance import SOURCE
from common.shard import WHOLE, Shard, every_nth
from dataset.spec import Sample
from pipeline.files.cam_file import StoredMaps, check_values
from pipeline.stages import crf
from pipeline.stages.batches import Batch, BatchImage, plan, with_work
from pipeline.stages.cams import CamWork, computed
from pipeline.stages.crf import CrfInput, CrfJob, CrfResult
from pipeline.stages.evaluate import Scored, Totals, add_up
from pipeline.stages.failure import failure
from pipeline.steps.kinds import stored

READING = 2  # batches that are read side by side where no processes read


def of_shard(cams: CamWork, samples: Sequence[Sample], shard: Shard) -> list[Sample]:
    """The samples that `run` works on in such a part of the list."""
    return [
        sample for batch in every_nth(plan(cams.reader, cams.batch_size, samples), shard) for sample in batch.samples
    ]


def finished_ids(cams: CamWork, job: CrfJob, samples: Iterable[Sample]) -> set[str]:
    """Ids whose mask is whole and made in the same way of the same image; damaged masks count as missing.

    Raises UserError, showing the difference, when a mask was made in another way or for other labels.
    """
    by_id = {sample.id: sample for sample in samples}

    def record_of(image_id: str) -> tuple[Path, dict[str, Any]]:
        sample = by_id[image_id]
        made_by = cams.record_now(sample)
        return sample.image, job.record(image_id, made_by, sample.labels, made_by[SOURCE])

    return crf.finished_ids(job, by_id, record_of)


def run(
    cams: CamWork,
    job: CrfJob,
    samples: Sequence[Sample],
    finished: set[str],
    totals: Totals,
    threads: int = 2,
    show: Callable[[BatchImage, CrfResult], None] | None = None,
    shard: Shard = WHOLE,
) -> Iterator[Outcome]:
    """Make the missing masks and, with ground truth, add the scores of all to the totals; one outcome an image.

    threads  images that are sharpened and written side by side, behind the model, which runs in the caller's thread
    show     gets every image that is worked on, before its mask is written; its errors are the image's
    shard    which part of the list is worked on

    A bounded number of images is in memory. Batches are cut from the whole list, as for CAM files. A mask that is
    there saves the model's and the CRF's work, unless it is to be scored against a ground truth whose score it does not
    keep: scores are of the labels before the 255s, which a mask does not hold.
    """
    skipped = crf.settled_ids(job, finished)
    batches = with_work(every_nth(plan(cams.reader, cams.batch_size, samples), shard), skipped)
    shown: dict[str, BatchImage] = {}

    def load(image: Outcome | BatchImage) -> CrfInput | Outcome:
        if isinstance(image, Outcome):
            return image
        if image.sample.id in skipped:  # computed for the sake of its batch
            return Outcome(image.sample.id, "kept")
        if show is not None:
            shown[image.sample.id] = image
        try:
            return crf_input(cams, job, image)
        except Exception as error:
            return failure(image.sample.id, error)

    def finish(result: CrfResult | Outcome) -> Scored:
        if show is not None and isinstance(result, CrfResult):
            try:
                show(shown.pop(result.input.id), result)
            except Exception as error:
                return Scored(failure(result.input.id, error))
        return replace(crf.finish(job, finished, result), record=None)  # one model made all maps

    images = _images(computed(cams, batches, READING), cams.kind)
    yield from add_up(crf.sharpen_all(job, images, load, finish, threads), totals)


def _images(batches: Iterable[Batch], kind: str) -> Iterator[Outcome | BatchImage]:
    """The outcomes and the images of batches, with maps in the type that a CAM file has them in."""
    for batch in batches:
        yield from batch.outcomes
        yield from (as_stored(image, kind) for image in batch.images)


def as_stored(image: BatchImage, kind: str) -> BatchImage:
    """The image with its maps rounded as a CAM file has them."""
    return replace(image, maps=tuple(stored(maps, kind) for maps in image.maps))


def crf_input(cams: CamWork, job: CrfJob, image: BatchImage) -> CrfInput:
    """The input of the CRF. The photo is read again: that costs less than holding it."""
    sample, maps = image.sample, image.maps[int(job.cam_type == "attn_highres")]
    try:
        check_values(maps, cams.kind)
    except ValueError as error:
        raise UserError(f"{sample.image}: its maps hold {error}; damaged weights?") from error
    kept = StoredMaps(np.array(sample.labels, np.int64), maps, image.size, cams.record(image.source, image.of))
    return crf.prepare_input(job, sample.id, sample.image, kept, (image.note,) if image.note else ())
