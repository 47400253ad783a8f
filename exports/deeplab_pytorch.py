"""The layout that kazuto1011/deeplab-pytorch reads (its libs/datasets/voc.py, data set `vocaug`)."""

import json
import re

from common.files import write_text
from exports.files import TRAIN, VALIDATION, Format, Job, Part, listed


def _line(part: Part, name: str) -> str:
    images, masks = (folder.removeprefix("VOC2012") for folder in (part.images, part.masks))
    return f"{images}/{name}.jpg {masks}/{name}.png"


def _configure(job: Job) -> None:
    """Write labels.txt, and the DATASET part of a configuration such as its configs/voc12.yaml."""
    names = job.path("labels.txt")
    write_text(names, "".join(f"{value}\t{name}\n" for value, name in enumerate(job.labels)))
    text = f"""# Takes the place of the DATASET part of configs/voc12.yaml.
DATASET:
    NAME: vocaug
    ROOT: {json.dumps(str(job.out.resolve()))}
    LABELS: {json.dumps(str(names.resolve()))}
    N_CLASSES: {len(job.labels)}
    IGNORE_LABEL: 255
    SCALES: [0.5, 0.75, 1.0, 1.25, 1.5]
    SPLIT:
        TRAIN: train_aug
        VAL: val
        TEST: val
"""
    write_text(job.path("dataset.yaml"), text)


IMAGES, LISTS = "VOC2012/JPEGImages", "VOC2012/ImageSets/SegmentationAug"
PARTS = {
    TRAIN: Part(IMAGES, "VOC2012/SegmentationClassAug", f"{LISTS}/train_aug.txt"),
    VALIDATION: Part(IMAGES, "VOC2012/SegmentationClass", f"{LISTS}/val.txt"),
}
FORMAT = Format(
    listed(PARTS, _line, _configure),
    "dataset.yaml",
    lambda image_id: re.sub(r"\s+", "_", image_id),  # its lists are cut at spaces
    shared="images",
)
