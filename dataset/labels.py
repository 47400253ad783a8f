"""The values of `--labels`, and their readers.

FILE, DIR  whatever a reader of the table below recognises
folders    a folder per class: the first folder below --img_root is the image's class
a,b        these classes for every image
all        all classes for every image, for methods that find out which are there (MaskCLIP)
"""

import os
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from common.errors import UserError
from dataset.label_source import EXPECTED, LabelSource, LabelTable
from dataset.names import ClassNames, hint, name_indices, plain_name
from dataset.readers import (
    coco,
    csv_table,
    cvat_xml,
    fiftyone,
    json_rows,
    label_studio,
    labelme,
    voc_main,
    voc_xml,
    words,
    yolo,
)
from dataset.spec import BY_CLIP, EVERY_CLASS, DatasetSpec
from dataset.text_files import SHOWN, parse_json, shown

FOLDERS = "folders"
WORDS = "lines of words"  # in which numbers are known to be indices

# The first that recognises a file or folder reads it. A new one is a file in readers/, a line here and a test.
READERS: dict[str, tuple[Callable[[LabelSource], bool], Callable[[LabelSource], LabelTable]]] = {
    "CVAT for images": (cvat_xml.recognises, cvat_xml.read),
    "VOC annotations": (voc_xml.recognises, voc_xml.read),
    "COCO instances": (coco.recognises, coco.read),
    "labelme": (labelme.recognises, labelme.read),
    "FiftyOne": (fiftyone.recognises, fiftyone.read),
    "Label Studio": (label_studio.recognises, label_studio.read),
    "YOLO": (yolo.recognises, yolo.read),
    "VOC class lists": (voc_main.recognises, voc_main.read),
    "JSON rows": (json_rows.recognises, json_rows.read),
    "table": (csv_table.recognises, csv_table.read),
    WORDS: (words.recognises, words.read),
}

# Label files by the names that tools give them, for folders that hold some of these beside the images.
KNOWN_NAMES = re.compile(
    r"_classes\.csv|_annotations(\.coco)?\.(csv|json)|metadata\.(csv|jsonl)|labels?\.(csv|tsv|json|jsonl|txt)"
    r"|annotations\.(csv|json|xml)|instances.*\.json|.*annotations.*\.csv|(classifications|detections)\.csv",
    re.IGNORECASE,
)
# Folders that say which part of a data set lies in them, above those that say the class.
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing", "trainval", "images"}


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
        table = _folder_names(ids, spec)
    elif argument and os.path.exists(argument):  # noqa: PTH110 - Path.exists raises for a list of many classes
        table = read_label_file(Path(argument), known_names(spec))
    else:
        return _same_for_all(argument, spec, ids)
    if not table.problems and not any(entry.names for entry in table.entries.values()):
        raise UserError(f"{table.source}: no labels in it; expected {EXPECTED}")
    return table


def known_names(spec: DatasetSpec) -> frozenset[str]:
    """The names that label files may use for the classes."""
    return frozenset(name_indices(spec))


def read_label_file(path: Path, classes: Collection[str] = ()) -> LabelTable:
    """The table of the first reader that recognises a file or folder; raises UserError, naming it, if none does.

    classes  the names that labels may use, for forms that are ambiguous without them
    """
    source = LabelSource(path, frozenset(classes))
    for form, (recognises, read) in READERS.items():
        if recognises(source):
            table = read(source)
            table.form = table.form or form
            return table
    if source.is_folder and (files := [file for file in source.files("") if KNOWN_NAMES.fullmatch(file.name)]):
        return _read_several(source, files)
    raise _unknown(source)


def _read_several(source: LabelSource, files: list[Path]) -> LabelTable:
    """The label files of a folder as one table; each is for the images beside it, or below."""
    result = LabelTable(str(source.path))
    forms = []
    for file in files:
        table = read_label_file(file, source.classes)
        folder = file.relative_to(source.path).parent
        for key, entry in table.entries.items():
            result.put((folder / key).as_posix(), entry.names, f"{source.below(file)}, {entry.where}", merge=True)
        result.indices |= table.indices
        result.repeated |= table.repeated
        result.problems += table.problems
        result.notes += table.notes
        forms.append(f"{table.form} ({source.below(file)})")
    result.form = ", ".join(forms[:3]) + (", ..." if len(forms) > 3 else "")
    return result


def _unknown(source: LabelSource) -> UserError:
    """The error for a file or folder that no reader recognises."""
    if source.is_folder:
        return UserError(
            f"--labels {source.path}: no XML, JSON, YOLO or other label file in it; "
            f"for a folder per class give --labels {FOLDERS}"
        )
    if source.start.startswith("<"):
        return UserError(f"{source.path}: one XML file; for VOC annotations give the folder they are in")
    parse_json(source.path, source.text, EXPECTED)  # raises where it is none
    return UserError(f"{source.path}: JSON of no known form; docs/labels.md lists those that are read")


def _folder_names(ids: Iterable[str], spec: DatasetSpec) -> LabelTable:
    """The first folder below --img_root is the class; where all first folders are splits (train, val), the second."""
    table = LabelTable(f"--labels {FOLDERS}", are_ids=True, form="a folder per class")
    parts = {image: image.split("/")[:-1] for image in ids}
    first = {folders[0] for folders in parts.values() if folders}
    seconds = {folders[1] for folders in parts.values() if len(folders) > 1}
    named = ClassNames(spec)
    is_split = first and all(name.lower() in SPLITS for name in first)
    level = (
        1 if is_split and (not all(name in named for name in first) or any(name in named for name in seconds)) else 0
    )
    for image, folders in parts.items():
        if len(folders) > level:
            table.put(image, [folders[level]], f"folder {'/'.join(folders[: level + 1])}")
    if level:
        table.notes.append(f"classes below {', '.join(sorted(first))}")
    return table


def _same_for_all(argument: str, spec: DatasetSpec, ids: Iterable[str]) -> LabelTable:
    names = list(spec.classes) if argument == EVERY_CLASS else re.split("[,;|]", argument)
    value = argument if argument.isprintable() and len(argument) <= SHOWN else shown(argument)
    named = ClassNames(spec)
    for name in names:
        if plain_name(name) not in named:
            what = "no such file or folder, and" if len(names) == 1 else "a list of classes, but"
            raise UserError(
                f"--labels {value}: {what} {shown(name.strip())} is not a class; {hint(name.strip(), spec.classes)}"
            )
    table = LabelTable(f"--labels {value}", are_ids=True, form="the same classes for every image")
    for image in ids:
        table.put(image, names, "every image")
    return table
