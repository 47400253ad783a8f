"""What an image file says of itself, checked before PIL spends memory or time on it.

PIL reads some formats whole, chunks as long as they say to be, and the values of all tags of an EXIF or TIFF directory,
each of which may be the whole file again.
"""

import os
import re
import struct
from collections.abc import Iterator
from typing import IO, BinaryIO

MOST_FILE = 1 << 29  # bytes of a file: WebP and AVIF are read whole, GIF and PPM may be searched byte by byte
MOST_PLAIN = 1 << 32  # of those that may be uncompressed
MOST_CHUNK = 1 << 24  # bytes of a chunk of a PNG that holds no pixels
MOST_CHUNKS = 1 << 20
MOST_VALUES = 1 << 22  # numbers in a tag: PIL makes Python numbers of them
MOST_BMP_HEADER = 1 << 10  # bytes; those of all versions have up to 124

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")
_PLAIN = (_PNG, b"BM", *_TIFF)
_ORIENTATION = 0x0112
_CHUNK_NAME = re.compile(rb"\w{4}")
_INFLATED = 1032  # bytes that a byte of a PNG file can stand for, at most: the limit of deflate
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by a PNG's colour type
_BYTES_OF = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # by a tag's type
_OPAQUE = (1, 2, 7)  # types whose values stay bytes


def check_header(stream: BinaryIO) -> None:
    """Raise OSError for a file that is larger, or promises more, than a picture can have a reason to.

    The stream then stands at its beginning.
    """
    head, length = stream.read(26), file_length(stream)
    most = MOST_PLAIN if head.startswith(_PLAIN) else MOST_FILE
    if length > most:
        raise OSError(f"larger than {most >> 20} MiB")
    if head.startswith(_PNG) and len(head) == 26:
        _check_png(stream, head, length)
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") > MOST_BMP_HEADER:
        raise OSError("a header without end")
    if head[:4] in _TIFF:
        _check_tiff(stream)
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
    """Raise OSError where the values of a directory take far more than there is, or one of them is endless.

    order  "<" or ">"
    big    whether it is one of BigTIFF

    The stream stands where the directory begins, and stays there.
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
            raise OSError(f"a tag of {values} numbers")
    if taken > 2 * length + (1 << 16) or count > 1 << 16:
        raise OSError("tags that take more than the file")


def _whole(data: bytes, step: int) -> bytes:
    return data[: len(data) // step * step]


def _check_tiff(stream: BinaryIO) -> None:
    """Check the directory of a TIFF's first picture, where PIL reads all values while it opens the file."""
    stream.seek(0)
    head = stream.read(16)
    order, big = "<" if head.startswith(b"II") else ">", b"+" in head[2:4]
    at = head[8:16] if big else head[4:8]
    if len(at) == (8 if big else 4):
        stream.seek(min(int.from_bytes(at, "little" if order == "<" else "big"), file_length(stream)))
        check_tags(stream, order, big)


def orientation_in(exif: bytes) -> int | None:
    """The orientation (1 to 8) that EXIF data tell; None where they tell none or are broken.

    Read here, because PIL reads the values of all tags before it tells one.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    if exif[:2] not in (b"II", b"MM") or exif[2:4] not in (b"*\0", b"\0*") or len(exif) < 8:
        return None
    order = "<" if exif.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}L", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start) if start + 2 <= len(exif) else (0,)
    entries = exif[start + 2 : start + 2 + 12 * count]
    for tag, kind, values, inside in struct.iter_unpack(f"{order}HHL4s", _whole(entries, 12)):
        if tag == _ORIENTATION and values == 1 and kind in (3, 4):
            (found,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'L'}", inside)
            return int(found) if 1 <= found <= 8 else None
    return None
