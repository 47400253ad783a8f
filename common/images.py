"""Images as the stages see them: upright RGB. Too many pixels are refused from the header, before they are decoded."""

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from math import sqrt
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from common.errors import StopRun, UserError, in_short
from common.files import open_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # PIL's others start programs, or are rare
MOST_PIXELS = 500_000_000  # by the header; 2 GB once decoded
MOST_SIDE = 1 << 16  # longest side of a processed image
LARGE = 1 << 25  # pixels; larger images are decoded one at a time, and at a smaller size where that will do
PART_OF_RANGE = 1 << 14  # 16-bit values that span less than this are stretched
SMALL, FLAT = 16, 10  # a photo of one colour: its means over SMALL x SMALL parts differ by less than FLAT of 255
STRETCHED = "16-bit values that use a part of their range, stretched to all of it"
ONE_COLOUR = "nearly one colour, is the file right?"
NOTE = "note"  # in `info`

_ORIENTATION = 0x0112  # EXIF tag
_SIDEWAYS = (5, 6, 7, 8)
_UPRIGHT = {  # what makes a picture of an orientation upright; the last four swap width and height
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_one_large = Lock()


def read_image(path: Path, enough: tuple[int, int] | None = None) -> Image.Image:
    """An image file as upright RGB (EXIF orientation applied); grey, palette, CMYK and 16-bit files are converted.

    enough  (H', W'): of an image with more than LARGE pixels, return a copy of this size, made of area averages, which
            takes less memory

    Of animations and files with several pages the first is read. Raises UserError, naming the file, when it is
    missing, truncated, not an image, no regular file or absurdly large.
    """

    def working(size: tuple[int, int]) -> tuple[int, int]:
        fits = enough is not None and enough[0] <= size[0] and enough[1] <= size[1]
        return enough if enough is not None and fits and size[0] * size[1] > LARGE else size

    return read_at(path, working)


def read_within(path: Path, most_pixels: int) -> Image.Image:
    """The same image, or a copy of its `working_size`, made of area averages. Raises as read_image does."""
    return read_at(path, lambda size: working_size(size, most_pixels))


def read_at(
    path: Path, working: Callable[[tuple[int, int]], tuple[int, int]], data: bytes | None = None
) -> Image.Image:
    """The same image, or a smaller copy made of area averages. Raises as read_image does.

    working  returns the size (H', W') of the copy of an image of size (H, W): the same, or smaller
    data     as in `opened`
    """
    with opened(path, data=data) as image:
        orientation = _orientation(image)
        size = _upright_size(image, orientation)
        if (smaller := working(size)) != size:
            return _shrunk(image, smaller, orientation)
        with one_at_a_time(_pixels(image)):
            image.load()
            return _turned(_rgb(image), orientation)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as `read_image` will give it, from the file's header alone. Raises as read_image does."""
    with opened(path) as image:
        return _upright_size(image, _orientation(image))


def working_size(size: tuple[int, int], most_pixels: int) -> tuple[int, int]:
    """The size (H', W') at which an image of (H, W) pixels is processed: the same, or smaller with the same aspect.

    It has at most `most_pixels` pixels, at least one a side, and no side above MOST_SIDE.
    """
    height, width = size
    if height * width <= most_pixels and max(size) <= MOST_SIDE:
        return size
    factor = min(sqrt(most_pixels / (height * width)), MOST_SIDE / max(size))
    short = max(1, int(min(size) * factor))
    long = max(1, min(int(max(size) * factor), most_pixels // short))
    return (short, long) if height <= width else (long, short)


def one_at_a_time(pixels: int) -> AbstractContextManager[object]:
    """Large images wait for each other, so that several threads need no more memory than one. Not to be nested."""
    return _one_large if pixels > LARGE else nullcontext()


@contextmanager
def opened(
    path: Path, formats: tuple[str, ...] = FORMATS, what: str = "image", data: bytes | None = None
) -> Iterator[Image.Image]:
    """Open an image file without decoding it; errors of the file, also in the block, become a UserError.

    what  the word for the file in messages: "image" or "mask"
    data  the bytes of the file, where they come out of an archive; `path` is only its name then
    """
    try:
        with open_regular(path) if data is None else BytesIO(data) as stream, _known(stream, formats) as image:
            if _pixels(image) > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except (UserError, StopRun):
        raise
    except Exception as error:  # PIL's readers raise all sorts of errors for a bad file
        raise UserError(f"{path}: {_reason(error, path, what)}") from error


def _known(stream: IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    """The image in a stream, by PIL's readers. `Image.open` would apply PIL's own limit of pixels, and warn.

    That limit and the filters of warnings belong to the whole process, in which others may use PIL too.
    """
    Image.init()
    start = stream.read(16)
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(start) is not True:
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # as Image.open: of another format after all
            continue
    raise UnidentifiedImageError


def _reason(error: Exception, path: Path, what: str) -> str:
    """The reason of an error and what to do, in one line without control characters."""
    if isinstance(error, FileNotFoundError):
        return f"no such {what}"
    if isinstance(error, PermissionError):
        return f"the {what} cannot be read ({error.strerror or 'no rights'}); change its rights or remove it"
    if isinstance(error, IsADirectoryError):
        hint = f"; give its files, as in {path}/*.jpg" if what == "image" else ""
        return f"not a readable {what} but a folder{hint}"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels to be opened safely; make it smaller"
    if isinstance(error, MemoryError):
        return f"too large for this machine's memory; make the {what} smaller"
    if isinstance(error, UnidentifiedImageError):
        return f"not a readable {what} (of no known format); replace or remove it"
    text = error.strerror if isinstance(error, OSError) else None  # str() would repeat the number and the path
    reason = in_short(text or str(error).replace(str(path), "it"))
    return f"not a readable {what} ({reason or type(error).__name__}); replace or remove it"


def _pixels(image: Image.Image) -> int:
    return image.width * image.height


def _upright_size(image: Image.Image, orientation: object) -> tuple[int, int]:
    return image.size if orientation in _SIDEWAYS else image.size[::-1]


def _orientation(image: Image.Image) -> object:
    """The orientation by EXIF or XMP data before the pixels; None for TIFF, which PIL turns itself, and broken data.

    PIL's own `getexif` of a PNG would decode the pixels, to look for EXIF data behind them.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    try:
        return Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # cameras and editors write all sorts of EXIF data
        return None


def _shrunk(image: Image.Image, size: tuple[int, int], orientation: object) -> Image.Image:
    """Upright RGB of (H', W'), smaller than the file's: each pixel is the mean of the area that it covers.

    A large image is brought to some twice that size first: a JPEG while it is decoded, others by means of whole pixels.
    That moves what is at its right and lower end by up to half a pixel of the result.
    """
    import cv2

    height, width = size[::-1] if orientation in _SIDEWAYS else size
    with one_at_a_time(_pixels(image)):
        if _pixels(image) > LARGE:
            image.draft(None, (2 * width, 2 * height))
        image.load()
        factors = max(1, image.width // (2 * width)), max(1, image.height // (2 * height))
        rgb = _rgb(image)
        near = rgb.reduce(factors) if _pixels(image) > LARGE else rgb
    small = cv2.resize(np.asarray(near), (width, height), interpolation=cv2.INTER_AREA)
    return _turned(Image.fromarray(small), orientation)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image  # a copy would double the memory
    if image.mode.startswith(("I", "F")):  # convert("RGB") would clip instead of scaling
        return _from_deep_grey(np.asarray(image))
    image.info.pop("transparency", None)  # PIL warns of some kinds of it, which do not change the colours
    return image.convert("RGB")


def _from_deep_grey(values: np.ndarray) -> Image.Image:
    """Grey values (H, W), integers of more than 8 bits or floats, as RGB.

    Where they span less than a quarter of 16 bits, as those of 12-bit cameras, microscopes and floats up to 1, they are
    stretched to all of it, and `info` says so.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if high - low >= PART_OF_RANGE or low == high:
        grey = (values.astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    grey = ((values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))).round().astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    image.info[NOTE] = STRETCHED
    return image


def note_on(image: Image.Image) -> str:
    """What people should know of a photo as `read_image` gives it; empty: nothing."""
    small = image.resize((SMALL, SMALL), Image.Resampling.BOX)  # noise is averaged away
    flat = all(high - low < FLAT for low, high in small.getextrema())  # type: ignore[misc]
    return "; ".join(filter(None, (str(image.info.get(NOTE, "")), ONE_COLOUR if flat else "")))


def _turned(image: Image.Image, orientation: object) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
