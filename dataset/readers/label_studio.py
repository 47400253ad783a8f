"""Label Studio's JSON export: a list of tasks with the results of their annotations, of which all count.

[{"data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [{"result": [{"value": {"choices": ["dog"]}}]}]}]
"""

from typing import Any

from common.errors import UserError
from dataset.ids import is_picture
from dataset.label_source import LabelSource, LabelTable
from dataset.label_values import choose_fields, names_in

EXPECTED = "Label Studio's JSON export, a list of tasks with `data` and `annotations`"
REGIONS = {"rectangle", "polygon", "ellipse", "keypoint", "brush", "bitmask"}  # without a label of their own


def recognises(source: LabelSource) -> bool:
    """Whether it is JSON with tasks."""
    tasks = source.json if isinstance(source.json, list) else []
    return bool(tasks) and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks)


def read(source: LabelSource) -> LabelTable:
    """A task without a finished annotation is not labelled. Raises UserError for a region without label."""
    table, unfinished = LabelTable(str(source.path)), 0
    for number, task in enumerate(source.json, 1):
        where = f"task {number}"
        place = f"{source.path}, {where}"
        image = _image(task["data"], place)
        done = task.get("annotations", task.get("completions", [] if "predictions" in task else None))
        if not isinstance(done, list):
            raise UserError(f"{place}: no list `annotations`; expected {EXPECTED}")
        done = [item for item in done if not (isinstance(item, dict) and item.get("was_cancelled"))]
        if not done:
            unfinished += 1
            continue
        names = [name for annotation in done for name in _names(annotation, place, source)]
        table.add(image, names, where, merge=True)
    if unfinished:
        table.notes.append(f"{unfinished} tasks without annotation")
    return table


def _image(data: dict[str, Any], where: str) -> str:
    """The picture of a task: the field that is called so, or the only one with the name of a picture."""
    keys = [key for key, value in data.items() if isinstance(value, str)]
    number = choose_fields(keys, where).image
    if number is not None:
        return str(data[keys[number]])
    pictures = [data[key] for key in keys if is_picture(data[key])]
    if len(pictures) != 1:
        raise UserError(f"{where}: `data` has {len(pictures)} pictures; expected one")
    return str(pictures[0])


def _names(annotation: Any, where: str, source: LabelSource) -> list[str]:
    """Regions are joined by their id: a shape and its label may be two results."""
    results = annotation.get("result") if isinstance(annotation, dict) else None
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise UserError(f"{where}: an annotation without a list `result`; expected {EXPECTED}")
    names: list[str] = []
    labelled: set[Any] = set()
    shapes: list[Any] = []
    for result in results:
        value, kind = result.get("value"), result.get("type")
        labels = value.get(kind) if isinstance(value, dict) and isinstance(kind, str) else None
        if isinstance(value, dict) and labels is None:
            labels = next((value[key] for key in value if key.endswith("labels") or key == "choices"), None)
        if isinstance(labels, list) and (kind is None or str(kind).endswith(("labels", "choices", "taxonomy"))):
            found = names_in([item[-1] if kind == "taxonomy" and item else item for item in labels], where)
            names += found
            labelled |= {str(result.get("id"))} if found else set()
            shapes += [] if found or kind == "choices" else [result.get("id")]
        elif kind in REGIONS or (isinstance(kind, str) and kind.endswith("labels")):
            shapes.append(result.get("id"))
    if any(str(shape) not in labelled for shape in shapes):
        raise UserError(f"{where}: a region without label; label it, or remove it")
    return names
