"""labelme's files: a JSON file beside each image, with a mask or a polygon an object."""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from common.files import write_text
from exports.files import Add, Example, Format, Job
from exports.objects import Object, objects_of

VERSION = "5.5.0"  # of the form; the first ones of it knew no masks
FEWEST = 3  # points of a polygon


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """<part>/<image> and <part>/<name>.json."""

    def add(example: Example) -> None:
        height, width = example.labels.shape
        image = job.place_image(example, example.part)
        shapes = []
        for one in objects_of(example.labels, job.classes):
            score = {"score": example.confidence[one.value]} if one.value in example.confidence else {}
            shapes.append(_shape(one, job.labels[one.value], job.polygons) | score)
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image.rsplit("/", 1)[1],
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_text(job.path(f"{example.part}/{example.name}.json"), json.dumps(content, indent=1))

    yield add


def _shape(one: Object, name: str, polygon: bool) -> dict[str, Any]:
    """One object: its outermost pixels, or the corners of its box, first and last pixel, and the mask within."""
    shape: dict[str, Any] = {"label": name, "group_id": None, "description": "", "flags": {}}
    if polygon:
        points = one.outline()
        points = np.resize(points, (max(FEWEST, len(points)), 2))
        return shape | {"shape_type": "polygon", "points": points.astype(float).tolist(), "mask": None}
    height, width = one.crop.shape
    corners = [[one.left, one.top], [one.left + width - 1, one.top + height - 1]]
    stream = io.BytesIO()
    Image.fromarray(one.crop).save(stream, "PNG")
    mask = base64.b64encode(stream.getvalue()).decode("ascii")
    return shape | {"shape_type": "mask", "points": [[float(x), float(y)] for x, y in corners], "mask": mask}


FORMAT = Format(writing, "train", options=frozenset({"polygons"}), keeps_255=False, links=False, listed=False)
