"""Labels by image id, before names are looked up: what every label format is read into."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.errors import UserError
from dataset.ids import plain_id
from dataset.text_files import shown
from dataset.voc_layout import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Entry:
    """The distinct class names of one image in file order, and where they stand ("line 4")."""

    names: tuple[str, ...]
    where: str


@dataclass
class LabelTable:
    """Everything a label file says.

    source      the file, for messages
    indices     whether a number stands for the class of that 0-based index (the COCO split format)
    entries     by image id
    repeated    ids that are labelled more than once, and where
    problems    (id, reason) of images whose labels cannot be read
    """

    source: str
    indices: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    repeated: dict[str, list[str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def add(self, image: str, names: Iterable[str], where: str) -> None:
        """Put in one image's labels; empty names are dropped, a second entry for the image is kept as repeated."""
        self.put(image_id(image, f"{self.source}, {where}"), names, where)

    def put(self, key: str, names: Iterable[str], where: str) -> None:
        """As `add`, for what is an id already."""
        if key in self.entries:
            self.repeated.setdefault(key, [self.entries[key].where]).append(where)
            return
        distinct = dict.fromkeys(" ".join(name.split()) for name in names)
        self.entries[key] = Entry(tuple(name for name in distinct if name), where)


def image_id(image: str, where: str) -> str:
    """The id of an image given with or without suffix: its path below --img_root, with `/`, without suffix.

    Raises UserError, naming `where` it stands, when it leaves the folder or holds backslashes or control characters.
    """
    image = image.strip()
    if "\\" in image:
        plain = image.replace("\\", "/")
        raise UserError(f"{where}: use / instead of \\ in the names of images, as in {shown(plain)}")
    for suffix in IMAGE_SUFFIXES:
        if image.endswith(suffix):
            image = image.removesuffix(suffix)
            break
    return plain_id(image, where)
