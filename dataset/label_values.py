"""What the cells and fields of label files hold: which of them is the image, which are labels, and the names in one.

Nothing is dropped: a field or cell that may hold labels and cannot be read is a UserError that names its place.
"""

import ast
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from dataset.names import plain_name
from dataset.text_files import shown, unique_json

# Names of fields without case, blanks and signs; the first that a file has is its image.
IMAGE_FIELDS = (
    "image images imagename imagefile imagefilename imagepath img imgname imgpath filename file files filepath path "
    "photo picture frame url uri imageurl imageid fileid id key"
).split()
LABEL_FIELDS = set(
    "label labels class classes category categories tag tags object objects annotation annotations classname "
    "classnames labelname labelnames categoryname categorynames imagelabel imagelabels choice choices".split()
)
LABEL_NUMBERS = {"classid", "classidx", "classindex", "labelid", "labelidx", "labelindex", "target", "targets"}
_LABEL_WORDS = {"label", "labels", "class", "classes", "category", "categories", "tag", "tags"}
_OTHER_WORDS = set(  # fields about labels that hold none
    "id ids idx index num number count n no score scores confidence prob probability source type split color colour "
    "creator author by time date super supercategory version set".split()
)
_NAMES_OF_OBJECTS = LABEL_FIELDS | {"name", "detections", "classifications", "title", "classtitle"}
_SEPARATORS = re.compile(r"[;,|\n]")
_MOST = 1 << 20  # characters of a list in a cell


def plain_field(text: str) -> str:
    """`File Name`, `file_name` and `filename` are one."""
    return re.sub(r"[\W_]+", "", text.casefold())


@dataclass(frozen=True)
class Fields:
    """The fields of a table or object by their numbers: the image, the labels, and those that are not read."""

    image: int | None
    labels: tuple[int, ...]
    others: tuple[int, ...]


def choose_fields(names: Sequence[str], where: str, classes: Collection[str] = ()) -> Fields:
    """Which field is the image and which hold labels, by their names; repeated fields of labels are all read.

    classes  a field that is called as one of them is a column of this class
    Raises UserError for two fields of images of one name, and for a field that looks like labels beside those that are
    known to be some.
    """
    plain = [re.sub(r"(?<=\D)\d+$", "", plain_field(name)) for name in names]
    image = next((plain.index(field) for field in IMAGE_FIELDS if field in plain), None)
    if image is not None and plain.count(plain[image]) > 1:
        raise UserError(f"{where}: {plain.count(plain[image])} fields {shown(names[image].strip())}; keep one")
    others = [number for number in range(len(names)) if number != image]
    rest = [number for number in others if plain_name(names[number]) not in classes]
    labels = [number for number in rest if plain[number] in LABEL_FIELDS]
    similar = [number for number in rest if number not in labels and _looks_like_labels(names[number])]
    if not labels:
        labels = similar if len(similar) == 1 else [n for n in rest if plain[n] in LABEL_NUMBERS and not similar]
        similar = [number for number in similar if number not in labels]
    if labels:  # cells that ran over into columns without a name
        labels = [*labels, *(number for number in rest if not names[number].strip() and number > labels[0])]
    if similar:
        name = shown(names[similar[0]].strip())
        raise UserError(f"{where}: the field {name} looks like labels; call it labels, or remove it")
    return Fields(image, tuple(labels), tuple(number for number in others if number not in labels))


def refuse_classes(names: Iterable[str], where: str, classes: Collection[str]) -> None:
    """Raise UserError for a field beside those of labels that is called as a class: it may say that one is shown."""
    for name in names:
        if plain_name(name) in classes:
            told = f"the field {shown(name.strip())} is called as a class, and stands beside a field of labels"
            raise UserError(f"{where}: {told}; use one form, or rename it")


def _looks_like_labels(name: str) -> bool:
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.strip()).lower()))
    return bool(words & _LABEL_WORDS) and not words & _OTHER_WORDS


def names_in_cell(text: str, where: str, classes: Collection[str] = ()) -> list[str]:
    """The names in a cell: one, several apart by `;` `,` or `|`, or a list as Python or JSON writes it.

    classes  known names; words apart by blanks are several names where the words are classes and the whole is none
    Raises UserError for a cell of nothing but separators.
    """
    text = text.strip()
    if not text or plain_name(text) in classes:
        return [text] if text else []
    if text[0] + text[-1] in ("[]", "()", "{}"):
        return _names_in_list(text, where, classes)
    return _split(text, where, classes)


def _split(text: str, where: str, classes: Collection[str]) -> list[str]:
    names = [part.strip().strip("\"'").strip() for part in _SEPARATORS.split(text)]
    if not any(names):
        raise UserError(f"{where}: only separators where labels are expected; leave it empty where an image shows none")
    names = [name for name in names if name]
    words = names[0].split()
    if len(names) == 1 and all(word in classes or word.isdecimal() for word in words):
        return words
    return names


def _names_in_list(text: str, where: str, classes: Collection[str]) -> list[str]:
    """Of a list, a set or an object in a cell."""
    if len(text) > _MOST:
        raise UserError(f"{where}: a list of {len(text)} characters; expected the labels of one image")
    try:
        return names_in(unique_json(text), where, classes)
    except (ValueError, RecursionError):
        pass
    apart = re.sub(r"(?<=['\"])\s+(?=['\"])", ", ", text)  # numpy's lists have no commas
    try:
        value = ast.literal_eval(apart)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        value = None
    if isinstance(value, (list, tuple, dict)):
        return names_in(list(value) if isinstance(value, tuple) else value, where, classes)
    inner = apart[1:-1].strip()
    return _split(re.sub(r"(?<=\d)\s+(?=\d)", ",", inner), where, classes) if inner else []


def names_in(value: Any, where: str, classes: Collection[str] = ()) -> list[str]:
    """The names in a JSON value: a name, a list of names or of objects with names, an object with lists of names, or
    {"dog": true, "cat": false}. Whole numbers become their digits.

    Raises UserError for an object without a name, an empty name, and values that are no names.
    """
    if isinstance(value, str):
        return names_in_cell(value, where, classes)
    if isinstance(value, list):
        return [name for item in value for name in _names_of_item(item, where, classes)]
    if isinstance(value, dict):
        return _names_of_object(value, where, classes)
    return [_number(value, where)]


def _names_of_item(item: Any, where: str, classes: Collection[str]) -> list[str]:
    if isinstance(item, str):
        if not item.strip():
            raise UserError(f"{where}: an empty name among the labels; remove it, or name it")
        return [item]
    names = names_in(item, where, classes)
    if isinstance(item, dict) and not names:
        raise UserError(f"{where}: an object without a name among the labels; name it, or remove it")
    return names


def _names_of_object(value: dict[str, Any], where: str, classes: Collection[str]) -> list[str]:
    switches = bool(value) and all(isinstance(item, (bool, int)) and item in (0, 1) for item in value.values())
    if switches and not any(plain_field(key) in _NAMES_OF_OBJECTS for key in value):
        return [name for name, is_set in value.items() if is_set]
    keys = [key for key in value if plain_field(key) in _NAMES_OF_OBJECTS or plain_field(key).endswith("labels")]
    if not keys:
        raise UserError(f"{where}: an object without a name among the labels; name it, or remove it")
    return [name for key in keys for name in names_in(value[key], where, classes)]


def _number(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > 1 << 53:
        raise UserError(f"{where}: `labels` is not a list of names; write [] where an image shows none")
    if int(value) != value or value < 0:
        raise UserError(f"{where}: {value} is no name and no index of a class")
    return str(int(value))
