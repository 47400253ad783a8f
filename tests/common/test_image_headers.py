"""Files that would have PIL read for ever, or far more than they hold: refused, or read without what they hide."""

import os
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from common.image_headers import check_tags
from common.images import image_size, read_image, read_within
from tests.common.test_hostile_images import chunk, peak_of, pixels_of, png

READERS: list[Callable[[Path], object]] = [read_image, image_size, lambda path: read_within(path, 100)]


def refused(path: Path, words: str) -> None:
    for read in READERS:
        with pytest.raises(UserError, match=words):
            read(path)


def whole(file_format: str) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (5, 3), (200, 0, 0)).save(stream, file_format)
    return stream.getvalue()


# --- files that are large, or say so --------------------------------------------------------------

MAGIC = {
    "jpg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "ppm": "PPM",
    "webp": "WEBP",
    "avif": "AVIF",
}


@pytest.mark.parametrize("suffix", MAGIC)
def test_a_terabyte_of_nothing_behind_a_picture(tmp_path: Path, suffix: str) -> None:
    """Files with holes cost nothing to make; PIL would read some of these whole, others byte by byte."""
    path = tmp_path / f"i.{suffix}"
    path.write_bytes(whole(MAGIC[suffix]))
    assert image_size(path) == (3, 5)
    os.truncate(path, 1 << 40)
    refused(path, r"not a readable image \(larger than (512|4096) MiB\)")


@pytest.mark.parametrize("start", [b"GIF89a\5\0\3\0\0\0\0", b"P6 #", b"P6 "])
def test_a_search_for_what_does_not_come(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "i.png").write_bytes(start)
    os.truncate(tmp_path / "i.png", (1 << 29) + 1)
    refused(tmp_path / "i.png", "larger than 512 MiB")


def test_a_header_that_is_said_to_be_long(tmp_path: Path) -> None:
    data = bytearray(whole("BMP"))
    data[14:18] = struct.pack("<I", 1 << 30)
    (tmp_path / "i.bmp").write_bytes(data)
    os.truncate(tmp_path / "i.bmp", (1 << 30) + 100)
    refused(tmp_path / "i.bmp", "a header without end")


@pytest.mark.parametrize("name", [b"tEXt", b"eXIf", b"cHRM", b"teSt"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_large_chunk_beside_the_pixels(tmp_path: Path, name: bytes, behind: bool) -> None:
    parts = [chunk(name, bytes(17 << 20)), pixels_of(4, 4)]
    (tmp_path / "i.png").write_bytes(png(4, 4, *(reversed(parts) if behind else parts)))
    refused(tmp_path / "i.png", "a chunk of 17 MiB beside its pixels")


def test_a_picture_without_end(tmp_path: Path) -> None:
    """Zeros behind the pixels are no chunks; looking for the next one would take a while."""
    data = png(4, 4, pixels_of(4, 4))[:-12]
    (tmp_path / "i.png").write_bytes(data)
    os.truncate(tmp_path / "i.png", 1 << 31)
    assert image_size(tmp_path / "i.png") == (4, 4)


# --- tags -----------------------------------------------------------------------------------------


def directory(tags: int, values: int, order: str = "<", kind: int = 7, big: bool = False) -> bytes:
    """A TIFF file's header and a directory of `tags`, each with the same `values`, all at its beginning."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}L", 8)
    form = f"{order}HHQQ" if big else f"{order}HHLL"
    entries = (struct.pack(form, 0x8000 + tag, kind, values, 0) for tag in range(tags))
    count = struct.pack(f"{order}{'Q' if big else 'H'}", tags)
    return head + count + b"".join(entries) + bytes(8 if big else 4)


def exif_jpeg(tags: bytes) -> bytes:
    data = whole("JPEG")
    exif = b"Exif\0\0" + tags
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[20:]  # in place of JFIF


def exif_webp(tags: bytes) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (5, 3), (200, 0, 0)).save(stream, "WEBP", exif=tags)
    return stream.getvalue()


def oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes().removeprefix(b"Exif\0\0")


CARRIERS: dict[str, Callable[[bytes], bytes]] = {
    "jpg": exif_jpeg,
    "webp": exif_webp,
    "png": lambda tags: png(5, 3, chunk(b"eXIf", tags), pixels_of(5, 3)),
}


@pytest.mark.parametrize("suffix", CARRIERS)
def test_the_carriers_below_carry(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"i.{suffix}").write_bytes(CARRIERS[suffix](oriented()))
    assert image_size(tmp_path / f"i.{suffix}") == (5, 3)


@pytest.mark.parametrize("suffix", CARRIERS)
def test_tags_that_all_hold_the_whole_are_not_read(tmp_path: Path, suffix: str) -> None:
    """5,000 tags of 60 kB in 60 kB: 300 MB. The picture itself is read."""
    path = tmp_path / f"i.{suffix}"
    path.write_bytes(CARRIERS[suffix](directory(5000, 60_000)))
    said, grown = peak_of(f"read_image(Path({str(path)!r})).size")
    assert said == "(5, 3)" and grown < 60


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_of_such_tags_is_refused(tmp_path: Path, order: str, big: bool) -> None:
    (tmp_path / "i.tiff").write_bytes(directory(5000, 60_000, order, big=big))
    said, grown = peak_of(f"image_size(Path({str(tmp_path / 'i.tiff')!r}))")
    assert said.startswith("refused") and grown < 60


def test_a_tag_of_many_numbers_is_refused(tmp_path: Path) -> None:
    """Python's numbers take ten times the room of those in the file."""
    data = directory(1, 10_000_000, kind=3).replace(struct.pack("<H", 0x8000), struct.pack("<H", 256))  # width
    (tmp_path / "i.tiff").write_bytes(data + bytes(20_000_000))
    said, grown = peak_of(f"image_size(Path({str(tmp_path / 'i.tiff')!r}))")
    assert said.startswith("refused") and grown < 60


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0", b"\xff\xff" + bytes(30), bytes(200)])
@pytest.mark.parametrize("big", [False, True])
def test_a_directory_that_is_cut_short_is_left_to_pil(data: bytes, big: bool) -> None:
    stream = BytesIO(data)
    stream.seek(0)
    check_tags(stream, "<", big)
    assert stream.tell() == 0


def test_large_tags_of_one_file_are_read(tmp_path: Path) -> None:
    """Programs keep megabytes of their own in a TIFF, and a long list of strips."""
    stream = BytesIO()
    image = Image.new("L", (4, 3000), 7)
    image.save(stream, "TIFF", tiffinfo={37724: os.urandom(3 << 20)}, strip_size=4)
    (tmp_path / "i.tiff").write_bytes(stream.getvalue())
    assert read_image(tmp_path / "i.tiff").getpixel((3, 2999)) == (7, 7, 7)
    assert len(stream.getvalue()) > 3 << 20
