"""Images as the stages see them: upright RGB. May import numpy, PIL and common.errors."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import UserError

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height


def read_image(path: Path) -> Image.Image:
    """An image file as upright RGB (EXIF orientation applied); grey, palette, CMYK and 16-bit files are converted.

    Raises UserError, naming the file, when it is missing, truncated, not an image or absurdly large.
    """
    with _trouble(path), Image.open(path) as image:
        image.load()
        return _rgb(ImageOps.exif_transpose(image))


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as `read_image` will give it, from the file's header alone."""
    with _trouble(path), Image.open(path) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(_ORIENTATION, 1) >= 5 else (height, width)


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
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._warnings.__exit__(None, None, None)
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{self.path}: no such image") from error
        if isinstance(error, Image.DecompressionBombError):
            raise UserError(f"{self.path}: too many pixels to be opened safely; make it smaller") from error
        if isinstance(error, (UnidentifiedImageError, OSError, SyntaxError, ValueError)):
            reason = " ".join(str(error).replace(str(self.path), "it").split())[:80]
            raise UserError(f"{self.path}: not a readable image ({reason}); replace or remove it") from error
