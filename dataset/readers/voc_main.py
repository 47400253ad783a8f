"""VOC's lists of a class (ImageSets/Main): `dog_train.txt` with lines `2008_000002 -1`.

1 is present, 0 present but difficult, -1 absent. A folder of such lists, or one list, whose name says the class.
"""

import re
from pathlib import Path

from common.errors import UserError
from dataset.label_source import LabelSource, LabelTable
from dataset.text_files import numbered_lines, read_text

EXPECTED = "a list of VOC's ImageSets/Main, lines `2008_000002 -1`"
LINE = re.compile(r"(\S+)\s+(-1|0|1)")
NAME = re.compile(r"(.+)_(train|val|trainval|test)")
LOOKED_AT = 50  # lines


def recognises(source: LabelSource) -> bool:
    """Whether it is a list that its name and its lines tell, or a folder with one."""
    if source.is_folder:
        return any(_is_list(path) for path in _lists(source)[:3])
    return source.suffix == ".txt" and NAME.fullmatch(source.path.stem) is not None and _has_lines(source.text)


def _lists(source: LabelSource) -> list[Path]:
    return [path for path in source.files(".txt") if NAME.fullmatch(path.stem)]


def _is_list(path: Path) -> bool:
    try:
        return _has_lines(read_text(path, EXPECTED))
    except UserError:
        return False


def _has_lines(text: str) -> bool:
    """Whether the first lines are such, with a -1 somewhere: other lists may end in class 0 or 1."""
    lines = [line for _, line in numbered_lines(text)]
    return bool(lines) and all(map(LINE.fullmatch, lines[:LOOKED_AT])) and any(line.endswith("-1") for line in lines)


def read(source: LabelSource) -> LabelTable:
    """Raises UserError, naming the line, for another line than an id and -1, 0 or 1."""
    table = LabelTable(str(source.path), are_ids=True)
    for path in _lists(source) if source.is_folder else [source.path]:
        match = NAME.fullmatch(path.stem)
        assert match is not None
        for number, line in numbered_lines(read_text(path, EXPECTED)):
            where = f"line {number}" if path == source.path else f"{source.below(path)}, line {number}"
            fields = LINE.fullmatch(line)
            if fields is None:
                raise UserError(f"{path}, line {number}: expected {EXPECTED}")
            table.add(fields[1], [] if fields[2] == "-1" else [match[1]], where, merge=True)
    return table
