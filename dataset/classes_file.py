"""The classes file of a user's own data as a DatasetSpec.

dog                                  a name is its own prompt
traffic light: traffic light; stoplight      several prompts, fused as the mean of their unit embeddings
# a comment; also after a name, behind a space
[background]                         what competes with the classes; VOC's list when there is no such section
grass
"""

import re
from pathlib import Path

from common.errors import UserError
from common.files import need_file
from dataset.names import plain_name
from dataset.spec import IGNORE_INDEX, VOC_THRESHOLD, DatasetSpec
from dataset.text_files import numbered_lines, read_text, shown

EXPECTED = "one class a line, `name` or `name: prompt one; prompt two`"
SECTION = "[background]"
BACKGROUND = tuple(  # VOC's background prompts in CLIP-ES
    "ground land grass tree building wall sky lake water river sea railway railroad keyboard helmet cloud house "
    "mountain ocean road rock street valley bridge sign".split()
)
MAX_BYTES = 16 << 20
MAX_NAME = 80  # characters


def read_classes(path: Path, name: str = "folder") -> DatasetSpec:
    """Read a classes file; raises UserError, naming the line, for whatever is wrong with it."""
    text = read_text(need_file(path, "--classes", EXPECTED), EXPECTED, MAX_BYTES)
    groups: dict[str, tuple[str, ...]] = {}
    background: dict[str, None] | None = None
    for number, line in numbered_lines(text):
        line = re.split(r"\s#", line, maxsplit=1)[0].strip()
        where = f"{path}, line {number}"
        if line.startswith("["):
            if line.lower() != SECTION or background is not None:
                raise UserError(f"{where}: {shown(line)} is not expected here; the only section is {SECTION}, once")
            background = {}
        elif background is not None:
            background[plain_name(line)] = None
        else:
            _add_class(groups, line, where)
    if not groups:
        raise UserError(f"{path}: no classes in it; expected {EXPECTED}")
    if background is not None and not background:
        raise UserError(f"{path}: {SECTION} is empty; list what surrounds the classes, or leave it out for VOC's list")
    words = default_background(groups) if background is None else tuple(background)
    return DatasetSpec(name, tuple(groups), tuple(groups.values()), words, True, VOC_THRESHOLD)


def _add_class(groups: dict[str, tuple[str, ...]], line: str, where: str) -> None:
    name, colon, rest = line.partition(":")
    name = plain_name(name)
    prompts = tuple(map(plain_name, rest.split(";"))) if colon else (name,)
    if not name or not all(prompts):
        raise UserError(f"{where}: an empty {'prompt' if name else 'name'}; expected {EXPECTED}")
    if len(name) > MAX_NAME:  # another kind of file
        raise UserError(f"{where}: class name {shown(name)} has more than {MAX_NAME} characters; the right file?")
    if re.search(r'[,;"]', name):
        raise UserError(
            f"{where}: class name {name!r} holds a comma, semicolon or quote, which label files use; rename it"
        )
    if name.isdecimal():
        raise UserError(
            f"{where}: class name {name!r} is a number, which label files take for the index of a class; "
            f"give it a name, e.g. class {name}"
        )
    if name.casefold() in (known.casefold() for known in groups):
        raise UserError(f"{where}: class {name!r} is there already; list every class once, its prompts joined by ;")
    if name.casefold() == "background":
        raise UserError(f"{where}: `background` is mask value 0 and no class; its prompts go below a line {SECTION}")
    groups[name] = prompts
    if len(groups) >= IGNORE_INDEX:
        raise UserError(f"{where}: {len(groups)} classes; masks hold at most {IGNORE_INDEX - 1} beside the background")


def default_background(groups: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """VOC's background prompts without those that are a class or one of its prompts here."""
    taken = {word.casefold() for name, prompts in groups.items() for word in (name, *prompts)}
    return tuple(word for word in BACKGROUND if word not in taken)
