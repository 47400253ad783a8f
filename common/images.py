"""Images as the stages see them: upright RGB. May import numpy, PIL and common.errors."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import UserError

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # what makes a picture of an orientation upright; the last four swap width and height
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> Image.Image:
    """An image file as upright RGB (EXIF orientation applied); grey, palette, CMYK and 16-bit files are converted.

    Raises UserError, naming the file, when it is missing, truncated, not an image or absurdly large.
    """
    with _trouble(path), Image.open(path) as image:
        orientation = _orientation(image)  # from the header, so that image_size() sees the same
        image.load()
        rgb = _rgb(image)
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as `read_image` will give it, from the file's header alone."""
    with _trouble(path), Image.open(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation; broken EXIF data counts as none. (PIL's exif_transpose rewrites all tags and may fail.)"""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # whatever PIL raises on the many kinds of broken EXIF data
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


class _trouble:
    """Turns whatever PIL raises for a bad file into one UserError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")  # of large pictures and broken EXIF data; what matters is raised

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._warnings.__exit__(None, None, None)
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{self.path}: no such image") from error
        if isinstance(error, IsADirectoryError):
            said = f"{self.path}: not a readable image but a folder; give its files, as in {self.path}/*.jpg"
            raise UserError(said) from error
        if isinstance(error, Image.DecompressionBombError):
            raise UserError(f"{self.path}: too many pixels to be opened safely; make it smaller") from error
        if isinstance(error, (UnidentifiedImageError, OSError, SyntaxError, ValueError)):
            reason = " ".join(str(error).replace(str(self.path), "it").split())[:80]
            raise UserError(f"{self.path}: not a readable image ({reason}); replace or remove it") from error
