"""What `--labels` may be, and which reader it goes to.

FILE      lines of words, CSV (label_text.py), JSON Lines or COCO's instances file (label_json.py)
DIR       VOC annotations, one XML an image, at any depth; the path below DIR without suffix is the id
folders   a folder per class: the first folder below --img_root is the image's class
a,b       these classes for every image
all       all classes for every image, for methods that find out which are there (MaskCLIP)
"""

import json
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from dataset.coco_json import MAX_BYTES, is_coco, parse_coco, read_coco
from dataset.ids import plain_id, unfit
from dataset.label_json import coco_table, one_row, read_json_lines
from dataset.label_table import LabelTable
from dataset.label_text import is_csv, read_csv, read_words
from dataset.names import hint, name_indices
from dataset.spec import EVERY_CLASS, DatasetSpec
from dataset.text_files import SHOWN, read_text, shown
from dataset.voc_layout import read_names
from dataset.walk import files_below

FOLDERS = "folders"
BY_CLIP = "clip"  # for generate_cams.py alone
EXPECTED = "labels as text (id name name), CSV (image,labels), JSON Lines, or COCO json"


def read_labels_argument(argument: str, spec: DatasetSpec, ids: Iterable[str]) -> LabelTable:
    """The table that `--labels` stands for; `ids` are those of the images at hand.

    Raises UserError when it is no such thing, or a file that cannot be read or holds nothing.
    """
    if argument == BY_CLIP:
        raise UserError(
            f"--labels {BY_CLIP}: only generate_cams.py (and scripts.segment) let CLIP name the classes; "
            "leave --labels out here, or give the tags.txt it wrote"
        )
    if argument == FOLDERS:
        table = _folder_names(ids)
    elif _is_path(argument):
        table = _annotations(Path(argument)) if Path(argument).is_dir() else read_label_file(Path(argument))
    else:
        return _same_for_all(argument, spec, ids)
    if not table.entries and not table.problems:
        raise UserError(f"{table.source}: no labels in it; expected {EXPECTED}")
    return table


def _is_path(argument: str) -> bool:
    try:
        return bool(argument) and Path(argument).exists()
    except OSError:  # a list of many classes is longer than a file name may be
        return False


def read_label_file(path: Path) -> LabelTable:
    """A label file in the format that its suffix, or else its beginning, says."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _json(path)
    text = read_text(path, EXPECTED)
    if suffix in (".jsonl", ".ndjson"):
        return read_json_lines(path, text)
    if suffix == ".csv" or is_csv(text):
        return read_csv(path, text)
    if text.lstrip().startswith("{"):
        return _json(path)
    if text.lstrip().startswith("<"):
        raise UserError(f"{path}: one XML file; for VOC annotations give the folder they are in")
    return read_words(path, text)


def _json(path: Path) -> LabelTable:
    """COCO's instances file or, where the file is not one JSON value or one of a label line, JSON Lines."""
    text = read_text(path, EXPECTED, MAX_BYTES)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        first = text.lstrip().split("\n", 1)[0]
        return read_json_lines(path, text) if first.rstrip().endswith("}") else coco_table(read_coco(path))
    if is_coco(content):
        return coco_table(parse_coco(path, content))
    if isinstance(content, dict) and "image" in content:
        return one_row(path, content)
    raise UserError(f"{path}: neither COCO's instances (images, annotations, categories) nor JSON Lines")


def _annotations(folder: Path) -> LabelTable:
    table = LabelTable(str(folder))
    for xml in files_below(folder, ".xml"):
        where = xml.relative_to(folder).as_posix()
        key = where.removesuffix(".xml")
        try:
            table.put(plain_id(key, folder), read_names(xml), where)
        except UserError as error:
            table.problems.append((ascii(key) if unfit(key) else key, str(error)))
    if not table.entries and not table.problems:
        raise UserError(f"--labels {folder}: no XML file in it; for a folder per class give --labels {FOLDERS}")
    return table


def _folder_names(ids: Iterable[str]) -> LabelTable:
    table = LabelTable(f"--labels {FOLDERS}")
    for image in ids:
        folder = image.split("/")[0] if "/" in image else ""
        table.put(image, [folder], f"folder {folder}" if folder else "not in a folder")
    return table


def _same_for_all(argument: str, spec: DatasetSpec, ids: Iterable[str]) -> LabelTable:
    names = list(spec.classes) if argument == EVERY_CLASS else [name.strip() for name in argument.split(",")]
    given = argument if argument.isprintable() and len(argument) <= SHOWN else shown(argument)
    known = name_indices(spec)
    for name in names:
        if name not in known:
            what = "no such file or folder, and" if len(names) == 1 else "a list of classes, but"
            raise UserError(f"--labels {given}: {what} {shown(name)} is not a class; {hint(name, spec.classes)}")
    table = LabelTable(f"--labels {given}")
    for image in ids:
        table.put(image, names, "every image")
    return table
