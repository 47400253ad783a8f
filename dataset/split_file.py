"""Split files: which images count, one a line, in the forms that people have.

2007_000032                                       an id
photos/a.jpg                                      a path, with or without the folders above it
/JPEGImages/a.jpg /SegmentationClass/a.png        an image and its mask (irn)
2007_000032 -1                                    VOC's list of a class: -1 absent (left out), 0 difficult, 1 present
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import need_file
from dataset.ids import is_picture, plain_id, reference, without_suffix
from dataset.text_files import numbered_lines, read_text

EXPECTED = "a text file with one image id a line"
MAIN = re.compile(r"(\S+)\s+(-1|0|1)")
ABSENT, DIFFICULT = "-1", "0"
IMAGES = "JPEGImages"  # VOC's folder of images, below which ids begin


@dataclass(frozen=True)
class _Line:
    text: str
    where: str


def read_references(path: Path, is_image: Callable[[str], bool] = lambda text: False) -> list[str]:
    """The images of a user's split file as references (dataset/ids.py), each once, in order; names may hold spaces.

    is_image  whether a whole line names an image: such lines are not taken apart
    Raises UserError when the file is missing, not text, empty, or a line names no image.
    """
    lines = _lines(path)
    whole = [is_image(line.text) for line in lines]
    if not any(whole) and (main := _main_list(path, lines)) is not None:
        return _references(main)
    pairs = [line if known else _Line(_first_of_pair(line.text), line.where) for line, known in zip(lines, whole)]
    return _references(pairs)


def read_split(path: Path, labelled: bool = False) -> list[str]:
    """The ids of a split file of a known data set, each once, in order. What follows an id on its line is not read.

    labelled  lines hold the indices of the classes behind the id (COCO), so that `-1` and the like mean nothing else
    Raises UserError as above.
    """
    lines = _lines(path)
    main = None if labelled else _main_list(path, lines)
    ids: dict[str, None] = {}
    for line in lines if main is None else main:
        text = line.text.split()[0]
        if is_picture(text):
            parts = without_suffix(reference(text, line.where)).split("/")
            at = parts.index(IMAGES) + 1 if IMAGES in parts else 0
            text = "/".join(parts[at:] or parts)
        ids[plain_id(text, line.where)] = None
    return list(ids)


def _lines(path: Path) -> list[_Line]:
    text = read_text(need_file(path, "--split_file", EXPECTED), EXPECTED)
    lines = [_Line(line, f"{path}, line {number}") for number, line in numbered_lines(text)]
    if not lines:
        raise UserError(f"{path}: an empty split; expected one image id a line")
    return lines


def _main_list(path: Path, lines: list[_Line]) -> list[_Line] | None:
    """Of VOC's list of a class, the lines of images that show it, with their ids alone; None for another file."""
    matches = [MAIN.fullmatch(line.text) for line in lines]
    if not all(matches):
        return None
    signs = [match[2] for match in matches if match]
    kept = [_Line(match[1], line.where) for match, line in zip(matches, lines) if match and match[2] != ABSENT]
    counts = f"{signs.count(ABSENT)} images with -1 (absent) left out, {signs.count(DIFFICULT)} with 0 (difficult) kept"
    print(f"--split_file {path}: a list of VOC's ImageSets/Main; {counts}", file=sys.stderr)
    if not kept:
        raise UserError(f"{path}: all images of this list have -1 (absent); nothing is left")
    return kept


def _first_of_pair(text: str) -> str:
    """The image of a line that names it and its mask."""
    parts = text.split()
    return parts[0] if len(parts) == 2 and all(map(is_picture, parts)) else text


def _references(lines: list[_Line]) -> list[str]:
    return list(dict.fromkeys(reference(line.text, line.where) for line in lines))
