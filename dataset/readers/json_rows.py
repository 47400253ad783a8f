"""Labels as JSON with a row an image: JSON Lines, an array of objects, one object, or an object of lists by image.

{"image": "holiday/beach.jpg", "labels": ["person", "dog"]}     also `file_name`, `filename`; `label`, `objects`, ...
{"holiday/beach.jpg": ["person", "dog"]}
Among them are Hugging Face's metadata.jsonl and Label Studio's JSON-MIN. Fields by name: dataset/label_values.py.
"""

from collections.abc import Iterator
from typing import Any

from common.errors import UserError
from dataset.ids import is_picture
from dataset.label_source import LabelSource, LabelTable, fields_text
from dataset.label_values import LABEL_FIELDS, choose_fields, names_in, plain_field, refuse_classes
from dataset.text_files import RepeatedKey, numbered_lines, shown, unique_json

EXPECTED = '{"image": "a.jpg", "labels": ["dog", "person"]}'
IMAGES_OF_ROWS = {"image", "filename", "file", "imagename", "imagepath", "path", "img", "imageid"}


def recognises(source: LabelSource) -> bool:
    """Whether it is called so, is an array, such an object, or lines of objects."""
    value = source.json
    if source.suffix in (".jsonl", ".ndjson"):
        return True
    if isinstance(value, dict):
        by_name = any(plain_field(key) in IMAGES_OF_ROWS for key in value)
        return by_name or _is_by_image(value) or _rows_in(value) is not None
    if isinstance(value, list):
        return not value or all(isinstance(row, dict) for row in value)
    return source.is_json and source.start.startswith("{") and source.start.endswith("}")


def _is_by_image(value: dict[str, Any]) -> bool:
    if any(plain_field(key) in LABEL_FIELDS for key in value):
        return False
    names = all(isinstance(labels, list) and all(isinstance(name, str) for name in labels) for labels in value.values())
    return bool(value) and (names or all(map(is_picture, value)))


def _rows_in(value: dict[str, Any]) -> list[Any] | None:
    """The rows of an object that holds them alone, under whatever name."""
    lists = [item for item in value.values() if isinstance(item, list)]
    rows = lists[0] if len(value) == len(lists) == 1 else []
    return (
        rows
        if rows and all(isinstance(row, dict) and choose_fields(list(row), "").image is not None for row in rows)
        else None
    )


def read(source: LabelSource) -> LabelTable:
    """Raises UserError, naming the line or entry, for rows without image or labels and for values that are no names."""
    table, others = LabelTable(str(source.path), indices=True), dict[str, None]()
    for row, where in _rows(source):
        place = f"{source.path}, {where}"
        image, labels, rest = _fields(row, place)
        refuse_classes(rest, place, source.classes)
        others.update(dict.fromkeys(rest))
        names = [name for value in labels for name in names_in(value, place, source.classes)]
        table.add(image, names, where, merge=True)
    if others:
        table.notes.append(f"not read: {fields_text(list(others))}")
    return table


def _rows(source: LabelSource) -> Iterator[tuple[Any, str]]:
    value = source.json
    value = _rows_in(value) or value if isinstance(value, dict) else value
    if isinstance(value, dict) and _is_by_image(value):
        for key, labels in value.items():
            yield {"image": key, "labels": labels}, f"entry {shown(key)}"
    elif isinstance(value, dict):
        yield value, "line 1"
    elif isinstance(value, list):
        for number, row in enumerate(value, 1):
            yield row, f"entry {number}"
    else:
        for number, line in numbered_lines(source.text):
            where = f"{source.path}, line {number}"
            try:
                yield unique_json(line), f"line {number}"
            except RepeatedKey as error:
                told = f"{shown(str(error))} stands twice in one object; put them in one"
                raise UserError(f"{where}: {told}") from error
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON; expected {EXPECTED}") from error


def _fields(row: Any, where: str) -> tuple[str, list[Any], list[str]]:
    """The image, the values of the fields of labels, and the names of the other fields."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: no `image` with a file name; expected {EXPECTED}")
    keys = list(row)
    fields = choose_fields(keys, where)
    image = None if fields.image is None else row[keys[fields.image]]
    if isinstance(image, dict):  # as the library `datasets` writes images
        image = image.get("path")
    if isinstance(image, int) and not isinstance(image, bool):
        image = str(image)
    if not isinstance(image, str):
        raise UserError(f"{where}: no `image` with a file name; expected {EXPECTED}")
    if not fields.labels:
        raise UserError(f"{where}: no `labels`; expected {EXPECTED}")
    return image, [row[keys[number]] for number in fields.labels], [keys[number] for number in fields.others]
