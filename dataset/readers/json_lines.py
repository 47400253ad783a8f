"""Labels as JSON Lines, one object an image: {"image": "holiday/beach.jpg", "labels": ["person", "dog"]}"""

import json
from typing import Any

from common.errors import UserError
from dataset.label_source import LabelSource, LabelTable
from dataset.text_files import numbered_lines

EXPECTED = '{"image": "a.jpg", "labels": ["dog", "person"]}'


def recognises(source: LabelSource) -> bool:
    """Whether it is called so, is one such object (on any number of lines), or an object begins and ends on line 1."""
    one = isinstance(source.json, dict) and "image" in source.json
    several = source.is_json and source.json is None and source.start.endswith("}")
    return source.suffix in (".jsonl", ".ndjson") or one or several


def read(source: LabelSource) -> LabelTable:
    """Raises UserError, naming the line, for anything else than `image` and a list of `labels`."""
    table = LabelTable(str(source.path))
    if isinstance(source.json, dict):
        table.add(*_fields(source.json, f"{source.path}, line 1"), "line 1")
        return table
    for number, line in numbered_lines(source.text):
        where = f"{source.path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON; expected {EXPECTED}") from error
        table.add(*_fields(row, where), f"line {number}")
    return table


def _fields(row: Any, where: str) -> tuple[str, list[str]]:
    if not isinstance(row, dict) or not isinstance(row.get("image"), str):
        raise UserError(f"{where}: no `image` with a file name; expected {EXPECTED}")
    labels = row.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{where}: `labels` is not a list of names; expected {EXPECTED}")
    return row["image"], labels
