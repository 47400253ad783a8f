"""The input of a reader of labels (LabelSource), and its result (LabelTable)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.ids import reference
from dataset.names import plain_name
from dataset.text_files import MAX_BYTES, RepeatedField, files_below, is_systems, parse_json, read_text

EXPECTED = "labels as text (id name name), CSV (image,labels), JSON, COCO or another form of docs/labels.md"
MAX_JSON = 2 << 30  # bytes; instances_train2014.json of COCO has 0.3 GiB


@dataclass(frozen=True)
class LabelSource:
    """A file or folder of labels, which is read and parsed once for all readers.

    classes  the classes that labels may name, for forms that are ambiguous without them; empty: not known
    """

    path: Path
    classes: frozenset[str] = frozenset()

    @cached_property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return self.path.suffix.lower()

    @cached_property
    def text(self) -> str:
        """The whole file; empty for a folder. Raises UserError, naming the file, when it is no UTF-8 text."""
        if self.is_folder:
            return ""
        return read_text(self.path, EXPECTED, MAX_JSON if self.suffix == ".json" else MAX_BYTES)

    @cached_property
    def start(self) -> str:
        """The first line that is not empty, without the blanks around it."""
        return self.text.lstrip().split("\n", 1)[0].rstrip()

    @property
    def is_json(self) -> bool:
        """Whether it is a JSON file by its name or start."""
        return self.suffix == ".json" or self.start[:1] == "{" or self.start == "[" or self.start[:2] == "[{"

    @cached_property
    def json(self) -> Any:
        """The content as one JSON value; None for other content."""
        if not self.is_json:
            return None
        try:
            return parse_json(self.path, self.text, EXPECTED)
        except RepeatedField:
            raise
        except UserError:
            return None

    def files(self, *endings: str) -> list[Path]:
        """Of a folder, the files in it and below whose names end so (lower case), without those of systems; sorted."""
        below = files_below(self.path, "") if self.is_folder else []
        return [
            path
            for path in below
            if path.name.lower().endswith(endings) and not any(map(is_systems, path.relative_to(self.path).parts))
        ]

    def below(self, path: Path) -> str:
        """The path of a file below the folder, with `/`."""
        return path.relative_to(self.path).as_posix()


@dataclass(frozen=True)
class Entry:
    """The distinct class names of one image in file order, and where they stand ("line 4").

    Without names the image is known to show none of the classes.
    """

    names: tuple[str, ...]
    where: str


@dataclass
class LabelTable:
    """Labels by reference to an image (dataset/ids.py), before images and names are looked up.

    source      the file, for messages
    indices     whether a number stands for the class of that 0-based index (the COCO split format)
    are_ids     whether the references are ids of images, and no names of files
    entries     by reference
    repeated    references that are labelled more than once, and where
    problems    (id, reason) of images whose labels cannot be read
    form        the kind of file, for people
    notes       what was passed over, or taken for granted, for people
    """

    source: str
    indices: bool = False
    are_ids: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    repeated: dict[str, list[str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    form: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, image: str, names: Iterable[str], where: str, merge: bool = False) -> None:
        """Add one image's labels; a second entry for the image is kept as repeated.

        merge  add the names to those that the image has already, as in files of a row per label
        """
        self.put(reference(image, f"{self.source}, {where}"), names, where, merge)

    def put(self, key: str, names: Iterable[str], where: str, merge: bool = False) -> None:
        """As `add`, by reference."""
        there = self.entries.get(key)
        if there is not None and not merge:
            self.repeated.setdefault(key, [there.where]).append(where)
            return
        distinct = dict.fromkeys((*(there.names if there else ()), *map(plain_name, names)))
        self.entries[key] = Entry(tuple(name for name in distinct if name), there.where if there else where)

    def summary(self) -> str:
        """One line for people about the table."""
        names = {name for entry in self.entries.values() for name in entry.names}
        parts = [f"{len(self.entries)} images", f"{len(names)} different labels"]
        if empty := sum(not entry.names for entry in self.entries.values()):
            parts.append(f"{empty} known to show none")
        return "; ".join([f"{self.source}: {self.form or 'labels'}, {', '.join(parts)}", *self.notes])


def fields_text(names: Sequence[str]) -> str:
    """Names of fields for a note: the first few."""
    return ", ".join(name.strip()[:30] or "(no name)" for name in names[:6]) + (", ..." if len(names) > 6 else "")
