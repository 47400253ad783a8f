"""Image ids: what may name the files of an image.

An id is the path of an image below its folder, with `/` and without suffix; results are written under the same path.
"""

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from common.errors import UserError
from dataset.text_files import shown

_LOWER = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jfif")
IMAGE_SUFFIXES = (*_LOWER, *(suffix.upper() for suffix in _LOWER), *(f".{suffix[1:].title()}" for suffix in _LOWER))
# Of any picture, read here or not, in lower case.
PICTURE_SUFFIXES = (*_LOWER, ".gif", ".heic", ".heif", ".avif", ".jp2", ".svg", ".raw", ".dng")
MOST = 2048  # characters of a path
# What moves a terminal's cursor, begins a line or turns the direction of writing; halves of characters (from JSON).
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_id(image_id: str, where: object) -> str:
    """The id in its plain form (no `./`, no `//`), if it names a file below a folder and nowhere else.

    Raises UserError, naming `where` it stands: for absolute ids, `..`, backslashes and control characters.
    """
    path = PurePosixPath(image_id)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in image_id or "\0" in image_id:
        expected = "expected plain ids such as 2007_000032"
        raise UserError(f"{where}: id {shown(image_id)} leaves the image folder; {expected}")
    if unfit(image_id):
        raise UserError(f"{where}: id {shown(image_id)} holds control characters; rename it")
    return str(path)


def unfit(name: str) -> bool:
    """Whether a name holds control characters, or is no Unicode text."""
    return _UNFIT.search(name) is not None


def reference(image: str, where: object) -> str:
    """The path by which a label file or split names an image, in plain form: with `/`, without what leads to its root.

    Addresses lose their server, Windows paths their drive, and `./` and `/` at the start go; matching finds the image
    that such a path fits. Raises UserError, naming `where` it stands, for an empty one, `..`, and control characters.
    """
    path = image
    if "://" in path:
        address = urlsplit(path)
        path = unquote(address.path + (f"?{address.query}" if address.query.startswith("d=") else ""))
    path = re.sub(r".*/local-files/\?d=", "", path).replace("\\", "/")  # Label Studio's files of its own machine
    parts = [part for part in re.sub(r"^\s*[A-Za-z]:/", "/", path).split("/") if part not in ("", ".")]
    if len(image) > MOST:
        raise UserError(
            f"{where}: image {shown(image)} has {len(image)} characters; expected its file, as holiday/a.jpg"
        )
    if not "".join(parts).strip():
        raise UserError(f"{where}: no image is named; expected its file, as in holiday/a.jpg")
    return plain_id("/".join(parts), where)


def is_picture(text: str) -> bool:
    """Whether a text ends as the name of a picture does."""
    return text.strip().lower().endswith(PICTURE_SUFFIXES)


def without_suffix(name: str) -> str:
    """A name without the suffix of a picture, if it has one."""
    suffix = next((suffix for suffix in PICTURE_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def split_id(image: str, where: object) -> str:
    """The id of an image given without suffix, for a line of a split file; raises UserError if it holds spaces too."""
    if len(image.split()) != 1:
        raise UserError(f"{where}: name {shown(image)} holds spaces, which split files cannot; rename it")
    return plain_id(image, where)
