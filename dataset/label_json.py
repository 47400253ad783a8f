"""Labels as JSON Lines and from COCO's instances file.

JSON Lines, one object an image: {"image": "holiday/beach.jpg", "labels": ["person", "dog"]}
"""

import json
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.coco_json import CocoFile
from dataset.label_table import LabelTable
from dataset.text_files import numbered_lines

EXPECTED = '{"image": "a.jpg", "labels": ["dog", "person"]}'


def read_json_lines(path: Path, text: str) -> LabelTable:
    """JSON Lines; raises UserError, naming the line, for anything else than `image` and a list of `labels`."""
    table = LabelTable(str(path))
    for number, line in numbered_lines(path, text):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON; expected {EXPECTED}") from error
        table.add(*_fields(row, where), f"line {number}")
    return table


def one_row(path: Path, row: Any) -> LabelTable:
    """The table of a single image, whose object may fill several lines."""
    table = LabelTable(str(path))
    table.add(*_fields(row, str(path)), "line 1")
    return table


def _fields(row: Any, where: str) -> tuple[str, list[str]]:
    if not isinstance(row, dict) or not isinstance(row.get("image"), str):
        raise UserError(f"{where}: no `image` with a file name; expected {EXPECTED}")
    labels = row.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{where}: `labels` is not a list of names; expected {EXPECTED}")
    return row["image"], labels


def coco_table(coco: CocoFile) -> LabelTable:
    """The categories of every image's annotations, in the order of the file."""
    table = LabelTable(str(coco.path))
    for image in coco.images:
        names = [coco.categories[item["category_id"]] for item in coco.annotations.get(image.id, ())]
        table.add(image.file_name, names, f"image id {image.id}")
    return table
