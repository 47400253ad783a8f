"""FiftyOne's ImageSegmentationDirectory for each part: data/ and labels/ with the same names, and a loader."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from common.files import write_text
from dataset.spec import IGNORE_INDEX
from exports.files import Add, Example, Format, Job, flat


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """<part>/data, <part>/labels, mask_targets.json, load.py."""

    def add(example: Example) -> None:
        job.place_image(example, f"{example.part}/data")
        job.place_mask(example, f"{example.part}/labels")

    yield add
    targets = dict(enumerate(job.labels)) | ({} if job.ignored else {IGNORE_INDEX: "ignored"})
    write_text(job.path("mask_targets.json"), json.dumps(targets, indent=1))
    text = f'''"""Loads the masks into FiftyOne: `from load import load; dataset = load()`."""

import json
from pathlib import Path

import fiftyone as fo

ROOT = Path(__file__).resolve().parent


def load(part="train"):
    """The data set of one of the parts {", ".join(job.parts)}."""
    dataset = fo.Dataset.from_dir(dataset_dir=str(ROOT / part), dataset_type=fo.types.ImageSegmentationDirectory)
    targets = json.loads((ROOT / "mask_targets.json").read_text(encoding="utf-8"))
    dataset.default_mask_targets = {{int(value): name for value, name in targets.items()}}
    dataset.save()
    return dataset
'''
    write_text(job.path("load.py"), text)


FORMAT = Format(writing, "load.py", flat, listed=False)
