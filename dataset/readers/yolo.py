"""YOLO's labels: a text file an image with lines `class x y w h`, and the names in data.yaml (or classes.txt) near by.

An empty file is that of an image that shows none of the classes. The reader of YAML is PyYAML's safe loader, which
builds plain values only; transformers and huggingface_hub bring it along.
"""

import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import is_file
from dataset.ids import plain_id, unfit
from dataset.label_source import LabelSource, LabelTable
from dataset.text_files import numbered_lines, read_text, shown

EXPECTED = "YOLO's data.yaml with a list of `names`"
NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "_darknet.labels")
NOT_LABELS = set("classes train val valid test trainval readme notes labels predefined_classes requirements".split())
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
LINE = re.compile(rf"(\d+)(?:\.0+)?(?:\s+{_NUMBER}){{4,}}")
MAX_YAML, MAX_TEXT = 1 << 20, 16 << 20  # bytes


def recognises(source: LabelSource) -> bool:
    """Whether it is a YAML file, or a folder whose first text file that is not empty has a line of a box."""
    if not source.is_folder:
        return source.suffix in (".yaml", ".yml")
    for path in _text_files(source.path, source):
        try:
            first = next(numbered_lines(read_text(path, EXPECTED, MAX_TEXT)), None)
        except UserError:
            continue
        if first is not None:
            return LINE.fullmatch(first[1]) is not None
    return False


def _text_files(folder: Path, source: LabelSource) -> list[Path]:
    """The files of labels in a folder and below; where some lie in folders called `labels`, those alone."""
    files = [path for path in LabelSource(folder).files(".txt") if path.stem.split(".")[0].lower() not in NOT_LABELS]
    chosen = [path for path in files if "labels" in path.relative_to(folder).parts[:-1]]
    return chosen or files


def read(source: LabelSource) -> LabelTable:
    """A file that cannot be read is entered as the problem of its image. Raises UserError where names are missing."""
    folder = source.path if source.is_folder else source.path.parent
    names, where = _names(source, folder)
    table = LabelTable(str(source.path), are_ids=True, notes=[f"names of {where.name}"])
    for path in _text_files(folder, source):
        place = path.relative_to(folder).as_posix()
        key = "/".join("images" if part == "labels" else part for part in place[: -len(".txt")].split("/"))
        try:
            table.put(plain_id(key, path), _classes(path, names), place)
        except UserError as error:
            table.problems.append((ascii(key) if unfit(key) else key, str(error)))
    return table


def _classes(path: Path, names: dict[int, str]) -> list[str]:
    found = []
    for number, line in numbered_lines(read_text(path, "YOLO's lines `class x y w h`", MAX_TEXT)):
        match = LINE.fullmatch(line)
        if match is None or len(match[1]) > 9:
            raise UserError(f"{path}, line {number}: {shown(line)}; expected `class x y w h` in numbers")
        if int(match[1]) not in names:
            raise UserError(f"{path}, line {number}: class {match[1]}, and there are {len(names)} names")
        found.append(names[int(match[1])])
    return found


def _names(source: LabelSource, folder: Path) -> tuple[dict[int, str], Path]:
    """The names by number, and their file: the source, or the nearest of NAMES_FILES, up to two folders above."""
    near = [folder, folder.resolve().parent, folder.resolve().parent.parent]
    candidates = [place / name for place in near for name in NAMES_FILES]
    path = source.path if not source.is_folder else next(filter(_lists_names, candidates), None)
    if path is None:
        raise UserError(f"{folder}: no data.yaml or classes.txt with the names of the classes beside it")
    text = read_text(path, EXPECTED, MAX_YAML)
    if path.suffix not in (".yaml", ".yml"):
        return dict(enumerate(line.strip() for line in text.splitlines() if line.strip())), path
    return _names_of_yaml(path, text), path


def _lists_names(path: Path) -> bool:
    """Whether a file may be YOLO's list of names; a classes file with prompts or background, as ours, is none."""
    if not is_file(path):
        return False
    return path.suffix != ".txt" or not re.search(r"^\[|:", read_text(path, EXPECTED, MAX_YAML), re.MULTILINE)


def _names_of_yaml(path: Path, text: str) -> dict[int, str]:
    import yaml

    try:
        content: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML; expected {EXPECTED}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: no `names`; expected {EXPECTED}")
    result: dict[int, str] = {}
    for key, name in names.items():
        number = int(key) if isinstance(key, int) or (isinstance(key, str) and key.isdecimal()) else -1
        if number < 0 or isinstance(name, (list, dict)) or name is None or not str(name).strip():
            raise UserError(f"{path}: name {shown(str(name))} of class {shown(str(key))}; expected {EXPECTED}")
        result[number] = str(name)
    return result
