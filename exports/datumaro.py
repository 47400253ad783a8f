"""Datumaro's own layout: annotations/<part>.json with run lengths as COCO's, images/<part>."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.files import write_text
from exports.coco import run_lengths
from exports.files import Add, Example, Format, Job
from exports.objects import objects_of

IMAGE = 2  # its number for images among media


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """An annotation an object; its attribute `score` is the confidence."""
    numbers = {value: number for number, value in enumerate(job.classes)}
    items: dict[str, list[dict[str, Any]]] = {part: [] for part in job.parts}

    def add(example: Example) -> None:
        place = job.place_image(example, f"images/{example.part}").removeprefix(f"images/{example.part}/")
        shape = example.labels.shape
        annotations = [
            {
                "id": index,
                "type": "mask",
                "attributes": {"score": example.confidence[one.value]} if one.value in example.confidence else {},
                "group": 0,
                "label_id": numbers[one.value],
                "rle": run_lengths(one.full(shape)),
                "z_order": 0,
            }
            for index, one in enumerate(objects_of(example.labels, numbers))
        ]
        image = {"path": place, "size": list(shape)}
        items[example.part].append({"id": example.name, "annotations": annotations, "image": image})

    yield add
    labels = [{"name": job.labels[value], "parent": "", "attributes": []} for value in numbers]
    categories = {"label": {"labels": labels, "label_groups": [], "attributes": []}}
    for part, found in items.items():
        head = {"dm_format_version": "1.0", "media_type": IMAGE, "infos": {}, "categories": categories}
        write_text(job.path(f"annotations/{part}.json"), json.dumps(head | {"items": found}))


FORMAT = Format(writing, "annotations/train.json", keeps_255=False, links=False)
