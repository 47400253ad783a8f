"""The report's scores and pictures for TensorBoard, written without torch."""

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.steps.scores import scores_of
from report.gallery import pictures_of
from report.measure import Entry, Findings, ReportJob
from report.pictures import colour_labels, contact_sheet, difference, heat_overlay, legend_of

IMAGES = 50  # the least certain ones


def write(folder: Path, job: ReportJob, findings: Findings, shown: Sequence[Entry]) -> None:
    """Write the scores and the share of 255 as scalars, and a picture of each of the least certain images."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    try:
        for name, value in scalars(job, findings).items():
            scalar = Summary.Value(tag=name, simple_value=value)
            writer.add_event(Event(wall_time=time.time(), summary=Summary(value=[scalar])))
        for rank, entry in enumerate(shown[:IMAGES], 1):
            picture, stream = sheet(job, entry), io.BytesIO()
            picture.save(stream, "PNG")
            image = Summary.Image(
                width=picture.width, height=picture.height, colorspace=3, encoded_image_string=stream.getvalue()
            )
            value = Summary.Value(tag=f"least certain/{rank:03d} {entry.id}", image=image)
            writer.add_event(Event(wall_time=time.time(), summary=Summary(value=[value])))
    finally:
        writer.close()


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


def sheet(job: ReportJob, entry: Entry) -> Image.Image:
    """The pictures of one image side by side under titles, with a legend."""
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
    return contact_sheet([list(row.values())], list(row), legend_of(spec.label_names, used))
