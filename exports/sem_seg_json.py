"""Predictions as detectron2's evaluator writes them: one record for each class of each mask, as run lengths.

Classes have the numbers that the data set's own files of predictions give them; 255 is left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from common.files import write_text
from exports.coco import run_lengths
from exports.files import Add, Example, Format, Job


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """<part>/sem_seg_predictions.json."""
    numbers = {value: value for value in range(len(job.labels))} | dict(job.numbers)
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in job.parts}

    def add(example: Example) -> None:
        found[example.part] += records(example.labels, f"{example.name}{example.suffix}", numbers)

    yield add
    for part in job.parts:
        write_text(job.path(f"{part}/sem_seg_predictions.json"), json.dumps(found[part]))


def records(labels: np.ndarray, file_name: str, numbers: Mapping[int, int] | Sequence[int]) -> list[dict[str, Any]]:
    """The records of one (H, W) uint8 mask.

    numbers  of the classes by mask value; values without one are left out
    """
    known = dict(enumerate(numbers)) if isinstance(numbers, Sequence) else numbers
    return [
        {
            "file_name": file_name,
            "category_id": known[value],
            "segmentation": run_lengths((labels == value).astype(np.uint8)),
        }
        for value in np.unique(labels).tolist()
        if value in known
    ]


FORMAT = Format(writing, "train/sem_seg_predictions.json", links=False)
