"""Images as the stages see them: upright RGB.

Whoever made a file may mean harm: only regular files of known formats are opened, and what their headers promise is
checked before memory is spent on it.
"""

import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import sqrt
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import (  # each registers its format
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from common.errors import StopRun, UserError
from common.image_headers import check_header, file_length, lie, orientation_in, png_chunks

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # others of PIL's start programs, or are rare
MOST_PIXELS = 500_000_000  # by the header; 2 GB once decoded
MOST_SIDE = 1 << 16  # of what is worked on: lattices and photos are not made for longer ones
LARGE = 1 << 25  # pixels; larger images are decoded one at a time, and at a smaller size where that will do

_STRIP = 1 << 22  # pixels that are converted at once
_JPEG_PIXELS = 2048  # pixels that a byte of a JPEG can stand for, at most: a bit a block, all of them subsampled
_ORIENTATION = 0x0112  # EXIF tag
_XMP_ORIENTATION = re.compile(r'tiff:Orientation(?:="|>)([1-8])')
_SIDEWAYS = (5, 6, 7, 8)
_TEXTS = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}  # chunks of a PNG that may say something of its orientation
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


# --- what the stages call -------------------------------------------------------------------------


def read_image(path: Path, enough: tuple[int, int] | None = None) -> Image.Image:
    """An image file as upright RGB (EXIF orientation applied); grey, palette, CMYK and 16-bit files are converted.

    enough  (H', W'): of an image of more than LARGE pixels, a copy of this size made of area averages will do; it
            takes less memory

    Of animations and files with several pages the first is read. Raises UserError, naming the file, when it is
    missing, truncated, not an image, no regular file or absurdly large.
    """
    with opened(path) as image:
        orientation = _orientation(image)
        size = _upright_size(image, orientation)
        fits = enough is not None and enough[0] <= size[0] and enough[1] <= size[1]
        if enough is not None and fits and _pixels(image) > LARGE:
            return _shrunk(image, enough, orientation)
        return _turned(_decoded(image), orientation)


def read_within(path: Path, most_pixels: int) -> Image.Image:
    """The same image, or a copy of its `working_size`, made of area averages. Raises as read_image does."""
    return read_at(path, lambda size: working_size(size, most_pixels))


def read_at(path: Path, working: Callable[[tuple[int, int]], tuple[int, int]]) -> Image.Image:
    """The same image, or a smaller copy made of area averages. Raises as read_image does.

    working  the size (H', W') that is wanted of an image of size (H, W): its own, or a smaller one
    """
    with opened(path) as image:
        orientation = _orientation(image)
        size = _upright_size(image, orientation)
        wanted = working(size)
        if wanted != size:
            return _shrunk(image, wanted, orientation)
        return _turned(_decoded(image), orientation)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as `read_image` will give it, from the file's header alone. Raises as read_image does."""
    with opened(path) as image:
        return _upright_size(image, _orientation(image))


def working_size(size: tuple[int, int], most_pixels: int) -> tuple[int, int]:
    """(H', W') at which an image of (H, W) pixels is worked on: its own size, or a smaller one of the same aspect.

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


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading. Anything else is an OSError, and is not waited for as a pipe would be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise IsADirectoryError("a folder") if stat.S_ISDIR(kind) else OSError("a pipe, socket or device")


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS, what: str = "image") -> Iterator[Image.Image]:
    """An image file, not decoded yet; whatever is wrong with it, also in the block, ends in a UserError.

    what  what the file is to people: "image" or "mask"
    """
    with _trouble(path, what), open_regular(path) as stream:
        check_header(stream)
        with _open(stream, formats) as image:
            if _pixels(image) > MOST_PIXELS:
                raise Image.DecompressionBombError
            if isinstance(image, _Jpeg) and _pixels(image) > _JPEG_PIXELS * file_length(stream):
                raise OSError(lie(*image.size))
            yield image


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG of which PIL reads no EXIF data; of files with several pictures (MPO) the first one."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF of which PIL reads no directory but the first picture's. PIL turns it upright itself."""

    def getexif(self) -> Image.Exif:
        exif = Image.Exif()
        if _ORIENTATION in self.tag_v2:
            exif[_ORIENTATION] = self.tag_v2[_ORIENTATION]
        return exif

    def load_prepare(self) -> None:
        """PIL's own, without its limit of pixels."""
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        ImageFile.ImageFile.load_prepare(self)


_OWN = {"JPEG": _Jpeg, "TIFF": _Tiff}


def _open(stream: BinaryIO, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    """As `PIL.Image.open`, which warns of large pictures and refuses those above a limit of the whole process."""
    start = stream.read(16)
    for name in formats:
        make, accepts = Image.OPEN[name]
        if accepts is None or accepts(start) is not True:
            continue
        stream.seek(0)
        try:
            return _OWN.get(name, make)(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # so PIL's readers say that it is no such file
            continue
    raise UnidentifiedImageError


# --- what a header says ---------------------------------------------------------------------------


def _pixels(image: Image.Image) -> int:
    return image.width * image.height


def _upright_size(image: Image.Image, orientation: object) -> tuple[int, int]:
    return image.size if orientation in _SIDEWAYS else (image.height, image.width)


def _orientation(image: Image.Image) -> int | None:
    """What EXIF data, or else XMP data, say of a picture that PIL does not turn itself; broken data say nothing.

    What a PNG holds behind its pixels is known once they are decoded, which is done only where there is any.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    if isinstance(image, PngImagePlugin.PngImageFile) and "exif" not in image.info and _texts_behind_pixels(image):
        image.load()
    exif = image.info.get("exif") or _unfolded(image.info.get("Raw profile type exif", ""))
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp", b"").decode("latin-1")
    in_xmp = _XMP_ORIENTATION.search(xmp)
    return orientation_in(exif) or (int(in_xmp[1]) if in_xmp else None)


def _unfolded(profile: str) -> bytes:
    """EXIF data as ImageMagick writes them into the text of a PNG: three lines, then hexadecimal digits."""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _texts_behind_pixels(image: PngImagePlugin.PngImageFile) -> bool:
    """Whether a PNG that is open and not decoded has chunks behind its pixels that PIL would read as text or EXIF."""
    stream = image.fp
    if stream is None or not image.tile:  # decoded: all of it is known
        return False
    place = stream.tell()
    try:
        names = [name for name, _ in png_chunks(stream)]
    finally:
        stream.seek(place)
    behind = names[names.index(b"IDAT") :] if b"IDAT" in names else []
    return not _TEXTS.isdisjoint(behind)


# --- pixels ---------------------------------------------------------------------------------------


def _decoded(image: Image.Image) -> Image.Image:
    """RGB, as it lies in the file."""
    with one_at_a_time(_pixels(image)):
        image.load()
        if _pixels(image) <= LARGE:
            return _rgb(image)
        # a copy would double the memory; what the file gives is as good as one, and other modes go strip by strip
        return image._new(image.im) if image.mode == "RGB" else _averaged(image, (1, 1))


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
        near = _averaged(image, factors) if _pixels(image) > LARGE else _rgb(image)
    small = cv2.resize(np.asarray(near), (width, height), interpolation=cv2.INTER_AREA)
    return _turned(Image.fromarray(small), orientation)


def _averaged(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """RGB with each block of `factors` (x, y) pixels made one; strip by strip, as conversion multiplies the memory."""
    across, down = factors
    result = Image.new("RGB", (-(-image.width // across), -(-image.height // down)))
    rows = max(1, _STRIP // (image.width * down)) * down
    for top in range(0, image.height, rows):
        strip = _rgb(image.crop((0, top, image.width, min(top + rows, image.height))))
        result.paste(strip.reduce(factors), (0, top // down))
    return result


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    image.info.pop("transparency", None)  # PIL warns of some kinds of it, which do not change the colours
    return image.convert("RGB")


def _turned(image: Image.Image, orientation: object) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


# --- what goes wrong ------------------------------------------------------------------------------


class _trouble:
    """Turns whatever is raised for a bad file into one UserError."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (UserError, StopRun)):
            raise UserError(f"{self.path}: {self._said(error)}") from error

    def _said(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"no such {self.what}"
        if isinstance(error, PermissionError):
            return f"the {self.what} cannot be read ({error.strerror or 'no rights'}); change its rights or remove it"
        if isinstance(error, IsADirectoryError):
            hint = f"; give its files, as in {self.path}/*.jpg" if self.what == "image" else ""
            return f"not a readable {self.what} but a folder{hint}"
        if isinstance(error, Image.DecompressionBombError):
            return f"too many pixels to be opened safely, over {MOST_PIXELS // 10**6} million; make it smaller"
        if isinstance(error, MemoryError):
            return f"too large for this machine's memory; make the {self.what} smaller"
        return f"not a readable {self.what} ({self._reason(error)}); replace or remove it"

    def _reason(self, error: Exception) -> str:
        """What PIL or the system says, in a line without control characters."""
        if isinstance(error, UnidentifiedImageError):
            return "of no known format"
        words = error.strerror if isinstance(error, OSError) else None  # str() would repeat the number and the path
        said = " ".join((words or str(error).replace(str(self.path), "it")).split())
        return "".join(letter if letter.isprintable() else "?" for letter in said)[:80] or type(error).__name__
