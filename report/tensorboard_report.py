"""The report's scores and pictures for TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.steps.scores import scores_of
from report.pictures import colour_labels, contact_sheet, difference, heat_overlay, legend_of
from report.stage_gallery import pictures_of
from report.stage_report import Entry, Findings, ReportJob

IMAGES = 50  # the least certain ones


def write(folder: Path, job: ReportJob, findings: Findings, shown: Sequence[Entry]) -> None:
    """Scalars of the scores and the share of 255, and a picture of each of the least certain images, in colour."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in scalars(job, findings).items():
            writer.add_scalar(name, value)
        for rank, entry in enumerate(shown[:IMAGES], 1):
            writer.add_image(f"least certain/{rank:03d} {entry.id}", sheet(job, entry), dataformats="HWC")


def scalars(job: ReportJob, findings: Findings) -> dict[str, float]:
    """Tags and values, shares in [0, 1]; without ground truth only what the masks say."""
    values = {"masks/images": float(len(findings.entries))}
    if findings.pixels.any():
        values["masks/share of 255"] = float(findings.pixels[255] / findings.pixels.sum())
    if not findings.confusion.any():
        return values
    scores = scores_of(findings.confusion)
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "coverage", "precision"):
        values[f"scores/{name}"] = getattr(scores, name)
    known = ((name, iou) for name, iou in zip(job.spec.label_names, scores.iou) if iou is not None)
    return values | {f"IoU/{name}": iou for name, iou in known}


def sheet(job: ReportJob, entry: Entry) -> np.ndarray:
    """The pictures of one image side by side under titles, with a legend, (H, W, 3) uint8."""
    pictures = pictures_of(job, entry)
    spec, mask, truth, photo = job.spec, pictures.mask, pictures.truth, pictures.photo
    blank = np.full((*mask.shape, 3), 200, np.uint8) if photo is None else photo
    row = {"photo" if photo is not None else "photo (missing)": blank}
    for key, heat in zip(pictures.keys, pictures.maps):
        row[f"CAM {spec.classes[int(key)]}"] = heat_overlay(blank, heat)
    row["mask"] = colour_labels(mask)
    if truth is not None:
        row["truth"] = colour_labels(truth)
        row["difference"] = difference(mask, truth, spec.num_labels, spec.has_background)
    used = {int(value) for part in (mask, truth) if part is not None for value in np.unique(part)}
    return np.asarray(contact_sheet([list(row.values())], list(row), legend_of(spec.label_names, used)))
