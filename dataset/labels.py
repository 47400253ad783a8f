"""The values of `--labels`, and their readers.

FILE, DIR  whatever a reader of the table below recognises
folders    a folder per class: the first folder below --img_root is the image's class
a,b        these classes for every image
all        all classes for every image, for methods that find out which are there (MaskCLIP)
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import UserError
from dataset.label_source import EXPECTED, LabelSource, LabelTable
from dataset.names import hint, name_indices, plain_name
from dataset.readers import coco, csv_table, json_lines, voc_xml, words
from dataset.spec import BY_CLIP, EVERY_CLASS, DatasetSpec
from dataset.text_files import SHOWN, parse_json, shown

FOLDERS = "folders"

# The first that recognises a file or folder reads it. A new one is a file in readers/, a line here and a test.
READERS: dict[str, tuple[Callable[[LabelSource], bool], Callable[[LabelSource], LabelTable]]] = {
    "VOC annotations": (voc_xml.recognises, voc_xml.read),
    "COCO instances": (coco.recognises, coco.read),
    "JSON Lines": (json_lines.recognises, json_lines.read),
    "CSV": (csv_table.recognises, csv_table.read),
    "lines of words": (words.recognises, words.read),
}


def read_labels_argument(argument: str, spec: DatasetSpec, ids: Iterable[str]) -> LabelTable:
    """The table of labels for a value of `--labels`; `ids` are those of the images.

    Raises UserError for an invalid value, and for a file that cannot be read or is empty.
    """
    if argument == BY_CLIP:
        raise UserError(
            f"--labels {BY_CLIP}: only generate_cams.py (and scripts.segment) let CLIP name the classes; "
            "leave --labels out here, or give the tags.txt it wrote"
        )
    if argument == FOLDERS:
        table = _folder_names(ids)
    elif argument and os.path.exists(argument):  # noqa: PTH110 - Path.exists raises for a list of many classes
        table = read_label_file(Path(argument))
    else:
        return _same_for_all(argument, spec, ids)
    if not table.entries and not table.problems:
        raise UserError(f"{table.source}: no labels in it; expected {EXPECTED}")
    return table


def read_label_file(path: Path) -> LabelTable:
    """The table of the first reader that recognises a file or folder; raises UserError, naming it, if none does."""
    source = LabelSource(path)
    for form, (recognises, read) in READERS.items():
        if recognises(source):
            table = read(source)
            table.form = form
            return table
    raise _unknown(source)


def _unknown(source: LabelSource) -> UserError:
    """The error for a file or folder that no reader recognises."""
    if source.is_folder:
        return UserError(f"--labels {source.path}: no XML file in it; for a folder per class give --labels {FOLDERS}")
    if source.start.startswith("<"):
        return UserError(f"{source.path}: one XML file; for VOC annotations give the folder they are in")
    parse_json(source.path, source.text, EXPECTED)  # raises where it is none
    return UserError(f"{source.path}: neither COCO's instances (images, annotations, categories) nor JSON Lines")


def _folder_names(ids: Iterable[str]) -> LabelTable:
    table = LabelTable(f"--labels {FOLDERS}", form="a folder per class")
    for image in ids:
        folder = image.split("/")[0] if "/" in image else ""
        table.put(image, [folder], f"folder {folder}" if folder else "not in a folder")
    return table


def _same_for_all(argument: str, spec: DatasetSpec, ids: Iterable[str]) -> LabelTable:
    names = list(spec.classes) if argument == EVERY_CLASS else argument.split(",")
    value = argument if argument.isprintable() and len(argument) <= SHOWN else shown(argument)
    indices = name_indices(spec)
    for name in names:
        if plain_name(name) not in indices:
            what = "no such file or folder, and" if len(names) == 1 else "a list of classes, but"
            raise UserError(
                f"--labels {value}: {what} {shown(name.strip())} is not a class; {hint(name.strip(), spec.classes)}"
            )
    table = LabelTable(f"--labels {value}", form="the same classes for every image")
    for image in ids:
        table.put(image, names, "every image")
    return table
