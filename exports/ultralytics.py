"""Ultralytics' semantic segmentation: masks as they are in `masks_dir`, where 255 is ignored, and a YAML file.

Its documentation, "Semantic Segmentation Datasets Overview". Folders in ids become part of the names, since it replaces
the last folder `images` of a path to find a mask.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from common.files import write_text
from exports.files import TRAIN, VALIDATION, Add, Example, Format, Job, flat


def write_yaml(job: Job, names: dict[int, str], *lines: str) -> None:
    """data.yaml; without a validation part the training images stand in for it, since the key is needed."""
    validation = VALIDATION if job.validated else TRAIN
    entries = [f"train: images/{TRAIN}", f"val: images/{validation}", *lines, "names:"]
    entries += [f"  {number}: {json.dumps(name)}" for number, name in names.items()]
    write_text(job.path("data.yaml"), "".join(f"{entry}\n" for entry in entries))


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """images/<part>, masks/<part>, data.yaml."""

    def add(example: Example) -> None:
        job.place_image(example, f"images/{example.part}")
        job.place_mask(example, f"masks/{example.part}")

    yield add
    write_yaml(job, dict(enumerate(job.labels)), "masks_dir: masks")


FORMAT = Format(writing, "data.yaml", flat, links=False, listed=False)  # it repairs JPEG files where they lie
