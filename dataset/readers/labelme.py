"""labelme's JSON files, one an image.

{"shapes": [{"label": "dog"}], "flags": {"indoor": true}, "imagePath": "a.jpg"}
"""

import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.ids import plain_id, reference, unfit
from dataset.label_source import MAX_JSON, LabelSource, LabelTable
from dataset.names import plain_name
from dataset.text_files import parse_json, read_text

EXPECTED = "a labelme file (shapes, imagePath)"


def recognises(source: LabelSource) -> bool:
    """Whether it is such a file, or a folder of JSON files whose first is one."""
    if not source.is_folder:
        return isinstance(source.json, dict) and "shapes" in source.json
    try:
        return any(_is_labelme(_content(path)) for path in source.files(".json")[:1])
    except UserError:
        return len(source.files(".json")) > 1


def _content(path: Path) -> Any:
    return parse_json(path, read_text(path, EXPECTED, MAX_JSON), EXPECTED)


def _is_labelme(value: Any) -> bool:
    return isinstance(value, dict) and "shapes" in value


def read(source: LabelSource) -> LabelTable:
    """A file that cannot be read is entered as the problem of its image. Flags count that are set and are classes."""
    table, flags = LabelTable(str(source.path)), dict[str, None]()
    for path in source.files(".json") if source.is_folder else [source.path]:
        where = source.below(path) if source.is_folder else path.name
        key = where[: -len(path.suffix)] if path.suffix else where
        try:
            value = _content(path)
            names, others = _names(value, path, source)
            folder = key.rpartition("/")[0]
            table.put(_image(value, folder) or plain_id(key, path), names, where)
            flags.update(dict.fromkeys(others))
        except UserError as error:
            table.problems.append((ascii(key) if unfit(key) else key, str(error)))
    if flags:
        table.notes.append(f"flags that are no classes: {', '.join(flags)[:80]}")
    return table


def _image(value: dict[str, Any], folder: str) -> str:
    """`imagePath`'s file name, in the folder of the JSON file: paths there are those of another machine."""
    image = value.get("imagePath")
    if not isinstance(image, str) or not image.strip():
        return ""
    name = reference(re.split(r"[/\\]", image)[-1], "imagePath")
    return f"{folder}/{name}" if folder else name


def _names(value: Any, path: Path, source: LabelSource) -> tuple[list[str], list[str]]:
    """The labels, and the flags that are set and are no classes."""
    shapes = value.get("shapes") if isinstance(value, dict) else None
    if not isinstance(shapes, list):
        raise UserError(f"{path}: no list `shapes`; expected {EXPECTED}")
    names = [shape.get("label") if isinstance(shape, dict) else None for shape in shapes]
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: shape {number} has no label; add it, or remove the shape")
    flags = value.get("flags")
    chosen = [plain_name(name) for name, is_set in flags.items() if is_set] if isinstance(flags, dict) else []
    others = [name for name in chosen if name not in source.classes]
    return [*map(str, names), *(name for name in chosen if name in source.classes)], others
