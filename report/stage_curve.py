"""The loop behind `--curve`: the CRF once more on a sample of images, for its probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from common.errors import UserError
from common.outcome import Outcome
from common.parallel import ordered_map
from pipeline.crf.dense_crf import CrfSettings
from pipeline.stages.crf import CrfJob, record_of, refine
from pipeline.stages.evaluate import check_shape, mask_record, read_truth
from report.confidence_curve import Curve
from report.stage_report import ReportJob


def crf_job(job: ReportJob, record: dict[str, Any]) -> CrfJob:
    """The CRF with the settings that a mask records; raises UserError when it does not record them."""
    try:
        return CrfJob(
            job.cams,
            job.images,
            None,
            job.truth,
            len(job.spec.classes),
            cam_type=record["cam_type"],
            crf_image=record["crf_image"],
            confidence=record["confidence"],
            palette=record["palette"],
            crf=CrfSettings(**{item.name: record[item.name] for item in fields(CrfSettings)}),
            has_background=job.spec.has_background,
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--curve needs masks of eval_cam_with_crf.py; {job.masks} does not say how it was made"
        ) from error


def sample(ids: Sequence[str], count: int) -> list[str]:
    """`count` ids, spread evenly over all of them."""
    count = min(count, len(ids))
    return [ids[index * len(ids) // count] for index in range(count)]


def run(job: ReportJob, crf: CrfJob, ids: Sequence[str], curve: Curve, threads: int) -> Iterator[Outcome]:
    """Add images to the curve; one outcome an image, failed where the mask was not made from its CAM file this way."""
    for image_id, result in ordered_map(lambda image_id: _one(job, crf, image_id), ids, threads):
        if isinstance(result, str):
            yield Outcome(image_id, "failed", result)
            continue
        labels, probabilities, truth = result
        curve.add(labels, probabilities, truth, job.spec.num_labels)
        yield Outcome(image_id, "made")


def _one(job: ReportJob, crf: CrfJob, image_id: str) -> tuple[str, Any]:
    try:
        cam_file, mask = crf.cams / f"{image_id}.npz", job.masks / f"{image_id}.png"
        if mask_record(mask) != record_of(crf, image_id)[1]:
            raise UserError(f"{mask}: not made from {cam_file} with the settings of the other masks; not in the curve")
        if job.truth is None:
            raise UserError("--curve needs ground truth")
        truth = read_truth(job.truth, image_id, job.spec.num_labels)
        labels, probabilities = refine(crf, image_id)
        check_shape(cam_file, labels.shape, truth)
        return image_id, (labels, probabilities, truth)
    except UserError as error:
        return image_id, str(error)
