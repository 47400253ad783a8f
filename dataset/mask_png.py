"""The mask PNG: one class value a pixel, and how it was made."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from common.errors import UserError
from common.files import atomic_write
from common.images import open_regular, opened

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_RECORD = 1 << 18  # characters of `made_by`
PIECE = 1 << 20  # bytes that are read at once


def voc_palette() -> np.ndarray:
    """(256, 3) uint8 RGB: the colours of PASCAL VOC's masks, by spreading the bits of the label."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def write_mask(path: Path, mask: np.ndarray, palette: bool = False, made_by: str = "") -> None:
    """Write an (H, W) uint8 mask as PNG, whole or not at all.

    Mode L, which trainers read as labels whatever they read it with; with `palette` mode P in VOC's colours, for
    people. `made_by` goes into a text chunk of the same name.
    Raises UserError where a picture lies that this project did not make: --overwrite is not meant for people's photos.
    """
    _spare_others(path)
    image = Image.fromarray(mask)
    if palette:
        image = image.convert("P")
        image.putpalette(voc_palette().tobytes())
    with atomic_write(path) as stream:
        image.save(stream, "PNG", optimize=False, pnginfo=made_here(made_by))


def _spare_others(path: Path) -> None:
    """Raise UserError for a picture of any format that does not say that it was made here; links are but links."""
    if path.is_symlink():
        return
    try:
        with opened(path) as image:
            ours = "made_by" in image.info
    except UserError:  # there is none, or one that is damaged
        return
    if not ours:
        said = "not written, a picture lies there that this project did not make"
        raise UserError(f"{path}: {said}; choose another folder, or remove it")


def made_here(made_by: str = "") -> PngImagePlugin.PngInfo:
    """The text chunk by which this project knows its own PNG files, among a user's photos too."""
    info = PngImagePlugin.PngInfo()
    info.add_text("made_by", made_by)
    return info


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 labels of a PNG of mode L or P, whichever way it is coloured.

    Raises UserError, naming the file, when it is missing, damaged, or a colour picture rather than labels.
    """
    with opened(path, ("PNG",), "mask") as image:
        if image.mode not in ("L", "P", "1"):
            expected = "expected a single-channel PNG with one class value a pixel"
            raise UserError(f"{path}: a {image.mode} picture, not labels; {expected}")
        return np.array(image, np.uint8)


def mask_made_by(path: Path) -> str:
    """What `write_mask` recorded, or an empty text, also for one that is longer than any record.

    Raises UserError when the mask is missing or damaged: all of it is decoded, and its checksums are compared, since
    PIL accepts an image whose last bytes are cut off or changed.
    """
    with opened(path, ("PNG",), "mask") as image, open_regular(path) as stream:
        image.load()
        record = image.info.get("made_by", "")
        whole = _is_whole(stream)
    if not whole:
        raise UserError(f"{path}: a damaged mask; make it again")
    return str(record) if len(record) <= MOST_RECORD else ""


def _is_whole(stream: BinaryIO) -> bool:
    """Whether a PNG is its chunks, (length, name, content, CRC of name and content) each, and nothing behind the last.

    Piece by piece: a file may be larger than its picture.
    """
    stream.seek(len(PNG_SIGNATURE))
    while len(head := stream.read(8)) == 8:
        left, name = struct.unpack(">I4s", head)
        checksum = zlib.crc32(name)
        while piece := stream.read(min(left, PIECE)):
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
        if left or stream.read(4) != checksum.to_bytes(4, "big"):
            return False
        if name == b"IEND":
            return not stream.read(1)
    return False
