"""COCO's instance annotations: images, categories, and an annotation an object, as run lengths or polygons.

One object is one connected part of a class (exports/objects.py). Categories count from 1 in the order of the classes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from common.files import write_text
from exports.files import Add, Example, Format, Job
from exports.objects import Object, objects_of


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """<part>/<image> and annotations/instances_<part>.json."""
    categories = {value: number for number, value in enumerate(job.classes, 1)}
    images: dict[str, list[dict[str, Any]]] = {part: [] for part in job.parts}
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in job.parts}

    def add(example: Example) -> None:
        height, width = example.labels.shape
        place = job.place_image(example, example.part).removeprefix(f"{example.part}/")
        number = len(images[example.part]) + 1
        images[example.part].append({"id": number, "file_name": place, "width": width, "height": height})
        for one in objects_of(example.labels, categories):
            entry = {"id": len(found[example.part]) + 1, "image_id": number, "category_id": categories[one.value]}
            score = {"score": example.confidence[one.value]} if one.value in example.confidence else {}
            found[example.part].append(entry | _shape(one, example.labels.shape, job.polygons) | score)

    yield add
    for part in job.parts:
        content = {
            "info": {"description": f"pseudo masks, {part}"},
            "licenses": [],
            "images": images[part],
            "annotations": found[part],
            "categories": [
                {"id": number, "name": job.labels[value], "supercategory": ""} for value, number in categories.items()
            ],
        }
        write_text(job.path(f"annotations/instances_{part}.json"), json.dumps(content))


def _shape(one: Object, shape: tuple[int, ...], polygons: bool) -> dict[str, Any]:
    """What COCO says of the pixels of an object."""
    height, width = one.crop.shape
    segmentation: Any = [one.edges().ravel().astype(float).tolist()] if polygons else run_lengths(one.full(shape))
    box = [float(number) for number in (one.left, one.top, width, height)]
    return {"segmentation": segmentation, "area": float(one.area), "bbox": box, "iscrowd": 0}


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """An (H, W) uint8 mask of 0 and 1 as COCO's compressed run lengths, for JSON."""
    from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


FORMAT = Format(
    writing, "annotations/instances_train.json", options=frozenset({"polygons"}), keeps_255=False, links=False
)
