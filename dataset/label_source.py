"""The input of a reader of labels (LabelSource), and its result (LabelTable)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.ids import image_id
from dataset.names import plain_name
from dataset.text_files import MAX_BYTES, parse_json, read_text

EXPECTED = "labels as text (id name name), CSV (image,labels), JSON Lines, or COCO json"
MAX_JSON = 2 << 30  # bytes; instances_train2014.json of COCO has 0.3 GiB


@dataclass(frozen=True)
class LabelSource:
    """A file or folder of labels, which is read and parsed once for all readers."""

    path: Path

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
        return self.suffix == ".json" or self.start.startswith("{")

    @cached_property
    def json(self) -> Any:
        """The content as one JSON value; None for other content."""
        try:
            return parse_json(self.path, self.text, EXPECTED) if self.is_json else None
        except UserError:
            return None


@dataclass(frozen=True)
class Entry:
    """The distinct class names of one image in file order, and where they stand ("line 4")."""

    names: tuple[str, ...]
    where: str


@dataclass
class LabelTable:
    """Labels by image id, before names are looked up.

    source      the file, for messages
    indices     whether a number stands for the class of that 0-based index (the COCO split format)
    entries     by image id
    repeated    ids that are labelled more than once, and where
    problems    (id, reason) of images whose labels cannot be read
    form        the kind of file, for people
    """

    source: str
    indices: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    repeated: dict[str, list[str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    form: str = ""

    def add(self, image: str, names: Iterable[str], where: str) -> None:
        """Add one image's labels; empty names are dropped, a second entry for the image is kept as repeated."""
        self.put(image_id(image, f"{self.source}, {where}"), names, where)

    def put(self, key: str, names: Iterable[str], where: str) -> None:
        """As `add`, by id."""
        if key in self.entries:
            self.repeated.setdefault(key, [self.entries[key].where]).append(where)
            return
        distinct = dict.fromkeys(map(plain_name, names))
        self.entries[key] = Entry(tuple(name for name in distinct if name), where)

    def summary(self) -> str:
        """One line for people about the table."""
        names = {name for entry in self.entries.values() for name in entry.names}
        count = f"{len(self.entries)} images, {len(names)} different labels"
        return f"{self.source}: {self.form or 'labels'}, {count}"
