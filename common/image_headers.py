"""What an image file says of itself, checked before PIL spends memory or time on it.

PIL reads some formats whole, chunks as long as they say to be, and the values of all tags of an EXIF or TIFF directory,
each of which may be the whole file again.
"""

import os
import re
import struct
from collections.abc import Iterator
from typing import IO, BinaryIO

from PIL import TiffImagePlugin

MOST_FILE = 1 << 29  # bytes of a file: WebP and AVIF are read whole, GIF and PPM may be searched byte by byte
MOST_PLAIN = 1 << 32  # of those that may be uncompressed
MOST_CHUNK = 1 << 24  # bytes of a chunk of a PNG that holds no pixels
MOST_CHUNKS = 1 << 20
MOST_VALUES = 1 << 22  # numbers in a tag: PIL makes Python numbers of them
MOST_BMP_HEADER = 1 << 10  # bytes; those of all versions have up to 124

_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN = (_PNG, b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CHUNK_NAME = re.compile(rb"\w{4}")
_INFLATED = 1032  # bytes that a byte of a PNG file can stand for, at most: the limit of deflate
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by a PNG's colour type
_BYTES_OF = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # by a tag's type
_OPAQUE = (1, 2, 7)  # types whose values stay bytes


def check_header(stream: BinaryIO) -> None:
    """Raise OSError for a file that is larger, or promises more, than a picture can have a reason to."""
    head, length = stream.read(26), file_length(stream)
    most = MOST_PLAIN if head.startswith(_PLAIN) else MOST_FILE
    if length > most:
        raise OSError(f"larger than {most >> 20} MiB")
    if head.startswith(_PNG) and len(head) == 26:
        _check_png(stream, head, length)
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") > MOST_BMP_HEADER:
        raise OSError("a header without end")
    stream.seek(0)


def file_length(stream: BinaryIO) -> int:
    """Bytes of a file that is open."""
    return os.fstat(stream.fileno()).st_size


def lie(width: int, height: int) -> str:
    """Of a file that would otherwise be decoded to a large grey picture, or fail after its memory was spent."""
    return f"its header promises {width} x {height} pixels, for which it is too small"


# --- PNG ------------------------------------------------------------------------------------------


def _check_png(stream: BinaryIO, head: bytes, length: int) -> None:
    width, height, depth, colours = struct.unpack(">IIBB", head[16:])
    if width * height * depth * _CHANNELS.get(colours, 1) // 8 > _INFLATED * length:
        raise OSError(lie(width, height))
    for number, (name, size) in enumerate(png_chunks(stream)):
        if size > MOST_CHUNK and name not in (b"IDAT", b"fdAT"):
            raise OSError(f"a chunk of {size >> 20} MiB beside its pixels")
        if number > MOST_CHUNKS:
            raise OSError(f"more than {MOST_CHUNKS} chunks")


def png_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """(name, bytes) of the chunks of a PNG as far as there are any; moves in the stream."""
    at = len(_PNG)
    stream.seek(at)
    while len(head := stream.read(8)) == 8 and _CHUNK_NAME.fullmatch(head, 4) and head[4:] != b"IEND":
        size = int.from_bytes(head[:4], "big")
        yield head[4:], size
        at += size + 12
        stream.seek(at)


# --- tags of EXIF and TIFF ------------------------------------------------------------------------


def check_tags(stream: IO[bytes], order: str, big: bool) -> None:
    """Raise SyntaxError where the values of a directory take far more than there is, or one of them is endless.

    order  "<" or ">"
    big    whether it is one of BigTIFF

    The stream stands where the directory begins, and stays there. PIL takes the error for one of a broken directory:
    EXIF data count as none, a TIFF is refused.
    """
    start = stream.tell()
    length = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    head, entry, inside = ("Q", "HHQ8s", 8) if big else ("H", "HHL4s", 4)
    count = int.from_bytes(stream.read(struct.calcsize(f"={head}")), "little" if order == "<" else "big")
    data = stream.read(min(count, 1 << 16) * struct.calcsize(f"={entry}"))
    stream.seek(start)
    taken = 0
    for _, kind, values, _ in struct.iter_unpack(f"{order}{entry}", _whole(data, struct.calcsize(f"={entry}"))):
        size = values * _BYTES_OF.get(kind, 0)
        taken += size if inside < size <= length else 0  # a longer one cannot be read, and is not
        if values > MOST_VALUES and size <= length and kind not in _OPAQUE:
            raise SyntaxError(f"a tag of {values} numbers")
    if taken > 2 * length + (1 << 16) or count > 1 << 16:
        raise SyntaxError("tags that take more than the file")


def _whole(data: bytes, step: int) -> bytes:
    return data[: len(data) // step * step]


def guard_tags() -> None:
    """Have PIL check every directory of tags before it reads the values; it has no option for this."""
    load = TiffImagePlugin.ImageFileDirectory_v2.load

    def guarded(directory: TiffImagePlugin.ImageFileDirectory_v2, stream: IO[bytes]) -> None:
        check_tags(stream, directory._endian, directory._bigtiff)
        load(directory, stream)

    if not hasattr(load, "guarded"):
        guarded.guarded = True  # type: ignore[attr-defined]
        TiffImagePlugin.ImageFileDirectory_v2.load = guarded  # type: ignore[method-assign, assignment]
