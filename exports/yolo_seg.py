"""YOLO's polygons for instance segmentation: a text file an image, a line `class x1 y1 x2 y2 ...` an object.

Coordinates are shares of width and height. A polygon has no holes: each is cut out along a seam (exports/objects.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from common.files import write_text
from exports.files import Add, Example, Format, Job, flat
from exports.objects import objects_of
from exports.ultralytics import write_yaml

INSIDE = 0.25  # of a pixel: readers that cut and readers that round get the same one
FEWEST = 3  # points; a line of fewer is read as a box


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """images/<part>, labels/<part>, data.yaml. Classes count from 0, without the background."""
    numbers = {value: number for number, value in enumerate(job.classes)}

    def add(example: Example) -> None:
        height, width = example.labels.shape
        lines = []
        for one in objects_of(example.labels, numbers):
            points = one.outline()
            points = np.resize(points, (max(FEWEST, len(points)), 2))  # repeats those of a pixel or a line
            shares = ((points + INSIDE) / (width, height)).ravel()
            lines.append(f"{numbers[one.value]} {' '.join(f'{share:.7g}' for share in shares)}\n")
        job.place_image(example, f"images/{example.part}")
        write_text(job.path(f"labels/{example.part}/{example.name}.txt"), "".join(lines))

    yield add
    write_yaml(job, {number: job.labels[value] for value, number in numbers.items()})


FORMAT = Format(writing, "data.yaml", flat, keeps_255=False, links=False, listed=False)
