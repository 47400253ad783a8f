"""Image ids: what may name the files of an image.

An id is the path of an image below its folder, with `/` and without suffix; results are written under the same path.
"""

import re
from pathlib import PurePosixPath

from common.errors import UserError
from dataset.text_files import shown

_LOWER = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jfif")
IMAGE_SUFFIXES = (*_LOWER, *(suffix.upper() for suffix in _LOWER), *(f".{suffix[1:].title()}" for suffix in _LOWER))
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


def image_id(image: str, where: str) -> str:
    """The id of an image given with or without suffix: its path below --img_root, with `/`, without suffix.

    Raises UserError, naming `where` it stands, when it leaves the folder or holds backslashes or control characters.
    """
    image = image.strip()
    if "\\" in image:
        plain = image.replace("\\", "/")
        raise UserError(f"{where}: use / instead of \\ in the names of images, as in {shown(plain)}")
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if image.endswith(suffix)), "")
    return plain_id(image.removesuffix(suffix), where)


def split_id(image: str, where: object) -> str:
    """The id of an image given without suffix, for a line of a split file; raises UserError if it holds spaces too."""
    if len(image.split()) != 1:
        raise UserError(f"{where}: name {shown(image)} holds spaces, which split files cannot; rename it")
    return plain_id(image, where)
