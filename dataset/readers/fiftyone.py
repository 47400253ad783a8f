"""FiftyOne's classification and detection datasets (labels.json), and its samples.json.

{"classes": ["dog", "cat"], "labels": {"holiday/beach": [0, 1]}}     indices of `classes`, or names; null: not labelled
{"samples": [{"filepath": "data/beach.jpg", "ground_truth": {"detections": [{"label": "dog"}]}}]}
"""

from typing import Any

from common.errors import UserError
from dataset.label_source import LabelSource, LabelTable
from dataset.label_values import choose_fields, names_in
from dataset.text_files import shown

EXPECTED = 'FiftyOne\'s {"classes": [...], "labels": {...}}'
KINDS = ("Classification", "Classifications", "Detections", "Polylines", "Keypoints", "Detection", "Polyline")


def recognises(source: LabelSource) -> bool:
    """Whether it is JSON with labels by image, or with samples that have a filepath."""
    value = source.json
    if not isinstance(value, dict):
        return False
    samples = value.get("samples")
    is_samples = isinstance(samples, list) and all(isinstance(item, dict) and "filepath" in item for item in samples)
    return (isinstance(value.get("labels"), dict) and "image" not in value) or (is_samples and "samples" in value)


def read(source: LabelSource) -> LabelTable:
    """Raises UserError, naming the image, for a label that is neither a name nor an index of the classes."""
    table = LabelTable(str(source.path))
    value = source.json
    if "samples" in value:
        return _read_samples(source, value["samples"])
    classes = value.get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise UserError(f"{source.path}: `classes` is no list of names; expected {EXPECTED}")
    for key, target in value["labels"].items():
        where = f"image {shown(key)}"
        if target is not None:
            names = names_in(target, f"{source.path}, {where}", source.classes)
            table.add(key, [_name(name, classes, f"{source.path}, {where}") for name in names], where)
    return table


def _name(name: str, classes: list[str] | None, where: str) -> str:
    if not name.isdecimal() or (classes and name in classes):
        return name
    if not classes or int(name) >= len(classes):
        raise UserError(f"{where}: label {shown(name)}, and `classes` has {len(classes or [])} names")
    return classes[int(name)]


def _read_samples(source: LabelSource, samples: list[dict[str, Any]]) -> LabelTable:
    """All fields of labels count."""
    table = LabelTable(str(source.path))
    for number, sample in enumerate(samples, 1):
        where = f"sample {number}"
        place, image = f"{source.path}, {where}", sample["filepath"]
        if not isinstance(image, str):
            raise UserError(f"{place}: no `filepath` with a file name")
        fields = [value for value in sample.values() if isinstance(value, dict) and value.get("_cls") in KINDS]
        keys = list(sample)
        fields += [sample[keys[number]] for number in choose_fields(keys, place).labels if not fields]
        labelled = [value for value in fields if value is not None]
        if labelled:
            names = [name for value in labelled for name in names_in(value, place, source.classes)]
            table.add(image, names, where)
    return table
