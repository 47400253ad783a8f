"""Images, annotations and CAM files that are broken in every way we know of, and good images of odd kinds."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Files:
    """The files of one image, good ones that may be links to others, and a folder that no image may lead to."""

    image: Path
    xml: Path
    outside: Path

    def put_image(self, data: bytes) -> None:
        """In place of the image, with the suffix that its bytes ask for."""
        self.image.unlink()
        self.image.with_suffix(".png" if data.startswith(PNG) else ".jpg").write_bytes(data)

    def put_xml(self, data: bytes) -> None:
        self.xml.unlink()
        self.xml.write_bytes(data)


Break = Callable[[Files], None]


# --- images ---------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A grey PNG with any size in its header, and whatever chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return PNG + head + b"".join(chunks) + chunk(b"IEND", b"")


def pixels(count: int) -> bytes:
    """The pixel chunk of so many zeros."""
    return chunk(b"IDAT", zlib.compress(bytes(count), 9))


@cache
def bomb() -> bytes:
    """25,000 x 20,001 grey pixels, all there, in half a megabyte."""
    packer = zlib.compressobj(9)
    row = bytes(25_001)
    packed = b"".join(packer.compress(row) for _ in range(20_001)) + packer.flush()
    return png(25_000, 20_001, chunk(b"IDAT", packed))


@cache
def text_bomb() -> bytes:
    """A text of 100 kB beside the pixels that unpacks to 100 MB."""
    return png(4, 4, chunk(b"zTXt", b"made_by\0\0" + zlib.compress(bytes(100 * MEGABYTE), 9)), pixels(20))


IMAGES: Mapping[str, Callable[[bytes], bytes]] = {  # from the good JPEG
    "jpeg_cut_short": lambda whole: whole[: len(whole) // 2],
    "image_empty": lambda whole: b"",
    "image_is_text": lambda whole: b"<html><body>404: not found</body></html>",
    "image_is_svg": lambda whole: b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>",
    "image_is_postscript": lambda whole: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(made) (w) file\n",
    "image_is_random": lambda whole: np.random.default_rng(len(whole)).bytes(5000),
    "png_header_lies": lambda whole: png(20_000, 20_000, pixels(90)),
    "png_bomb": lambda whole: bomb(),
    "png_text_bomb": lambda whole: text_bomb(),
    "png_without_pixels": lambda whole: png(0, 9, pixels(9)),
}


# --- annotations ----------------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


def of_class(name: str) -> bytes:
    return f"<annotation><object><name>{name}</name></object></annotation>".encode()


XMLS: Mapping[str, Callable[[bytes], bytes]] = {  # from the good annotation
    "xml_cut_short": lambda whole: whole[: len(whole) // 2],
    "xml_empty": lambda whole: b"",
    "xml_entity_bomb": lambda whole: (
        f'<!DOCTYPE annotation [<!ENTITY l0 "house">{LAUGHS}]>'.encode() + of_class("&l9;")
    ),
    "xml_class_unknown": lambda whole: of_class("zeppelin"),
    "xml_class_leaves": lambda whole: of_class("../../house"),
    "xml_holds_nul": lambda whole: whole.replace(b"name", b"na\0me"),
    "xml_encoding_unknown": lambda whole: b'<?xml version="1.0" encoding="klingon"?>' + whole,
    "xml_17_megabytes": lambda whole: whole + b" " * (17 * MEGABYTE),
}


# --- what lies in their places --------------------------------------------------------------------


def link_out(files: Files) -> None:
    """To an image that could be read, but is none of the folder's."""
    files.image.rename(files.outside / f"{files.image.name}.jpg")
    files.image.symlink_to(files.outside / f"{files.image.name}.jpg")


def external_entity(files: Files) -> None:
    """Would show a file from outside as the name of a class."""
    secret = files.outside / "secret.txt"
    files.put_xml(f'<!DOCTYPE a [<!ENTITY e SYSTEM "{secret.as_uri()}">]>'.encode() + of_class("&e;"))


def instead(which: str, put: Callable[[Path], object]) -> Break:
    """Removes the file and puts something else in its place."""

    def do(files: Files) -> None:
        path: Path = getattr(files, which)
        path.unlink()
        put(path)

    return do


PLACES: Mapping[str, Break] = {
    "image_missing": instead("image", lambda path: None),
    "image_is_a_folder": instead("image", Path.mkdir),
    "image_is_a_pipe": instead("image", os.mkfifo),
    "image_is_a_device": instead("image", lambda path: path.symlink_to("/dev/zero")),
    "image_links_outside": link_out,
    "image_links_to_itself": instead("image", lambda path: path.symlink_to(path.name)),
    "xml_missing": instead("xml", lambda path: None),
    "xml_is_a_folder": instead("xml", Path.mkdir),
    "xml_is_a_pipe": instead("xml", os.mkfifo),
    "xml_external_entity": external_entity,
}


def unreadable(which: str) -> Break:
    def do(files: Files) -> None:
        path: Path = getattr(files, which)
        data = path.read_bytes()
        path.unlink()  # it may be a link to the good one
        path.write_bytes(data)
        path.chmod(0)

    return do


LONG_ID = "id_too_long_for_a_file"  # has no files


def all_breaks(with_rights: bool) -> dict[str, Break]:
    """By name; `with_rights`: also files that may not be read, which is nothing to root."""
    rights = {f"{which}_unreadable": unreadable(which) for which in ("image", "xml")} if with_rights else {}
    images = {name: partial(in_image, of_bytes) for name, of_bytes in IMAGES.items()}
    xmls = {name: partial(in_xml, of_bytes) for name, of_bytes in XMLS.items()}
    return {**images, **xmls, **PLACES, **rights, LONG_ID: lambda files: None}


def in_image(of_bytes: Callable[[bytes], bytes], files: Files) -> None:
    files.put_image(of_bytes(files.image.read_bytes()))


def in_xml(of_bytes: Callable[[bytes], bytes], files: Files) -> None:
    files.put_xml(of_bytes(files.xml.read_bytes()))


# --- CAM files ------------------------------------------------------------------------------------


class Payload:
    """Pickled, it makes a folder where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def changed(whole: bytes, **arrays: Any) -> bytes:
    """A CAM file with other arrays in the place of some of its own."""
    with np.load(io.BytesIO(whole), allow_pickle=False) as found:
        own = dict(found)
    stream = io.BytesIO()
    np.savez_compressed(stream, **{**own, **arrays})
    return stream.getvalue()


def flipped(whole: bytes) -> bytes:
    """One byte changed, in the midst of the maps that masks are made of."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entry = archive.getinfo("attn.npy")
    head = entry.header_offset
    names = sum(int.from_bytes(whole[head + at : head + at + 2], "little") for at in (26, 28))
    place = head + 30 + names + entry.compress_size // 2
    return whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]


@cache
def gigabyte() -> bytes:
    """A file of 5 MB with one array of 1.2 GB."""
    stream = io.BytesIO()
    head = {"descr": "<f2", "fortran_order": False, "shape": (1, 600, MEGABYTE)}
    archive = zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("attn.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, head)
        for _ in range(600):
            entry.write(bytes(2 * MEGABYTE))
    return stream.getvalue()


def cam_files(mark: Path) -> dict[str, Callable[[bytes], bytes]]:
    """From a good one; `mark`: what would be there if one of them could run code."""
    maps = np.zeros((1, 4, 4), np.float16)
    return {
        "cam_cut_short": lambda whole: whole[: len(whole) // 2],
        "cam_empty": lambda whole: b"",
        "cam_is_text": lambda whole: b"no maps here",
        "cam_flipped_byte": flipped,
        "cam_pickled": lambda whole: changed(whole, keys=np.array([Payload(mark)], object)),
        "cam_of_nan": lambda whole: changed(whole, keys=np.array([0]), cam=maps * np.nan, attn=maps * np.nan),
        "cam_of_other_shapes": lambda whole: changed(whole, keys=np.arange(3), cam=maps, attn=maps),
        "cam_of_a_gigabyte": lambda whole: gigabyte(),
        "cam_classes_unknown": lambda whole: changed(whole, keys=np.array([10**6]), cam=maps, attn=maps),
    }


# --- good ones of odd kinds -----------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif, quality=95)


def _sixteen_bit(image: Image.Image) -> bytes:
    return encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG")


def _moving(image: Image.Image) -> bytes:
    return encoded(image, "PNG", save_all=True, append_images=[image.rotate(180)])


def _stretched(size: tuple[int, int]) -> Callable[[Image.Image], bytes]:
    return lambda image: encoded(image.resize(size), "PNG")


ODD: Mapping[str, tuple[str, Callable[[Image.Image], bytes]]] = {  # end of the file's name, bytes from a good picture
    "one_pixel": (".png", _stretched((1, 1))),
    "two_by_three": (".png", _stretched((2, 3))),
    "one_row": (".png", _stretched((10_000, 1))),
    "one_column": (".png", _stretched((1, 10_000))),
    "grey": (".jpg", lambda image: encoded(image.convert("L"), "JPEG")),
    "cmyk": (".jpeg", lambda image: encoded(image.convert("CMYK"), "JPEG")),
    "sixteen_bit": (".png", _sixteen_bit),
    "palette": (".png", lambda image: encoded(image.quantize(32), "PNG", transparency=1)),
    "webp": (".webp", lambda image: encoded(image, "WEBP")),
    "capitals": (".JPG", lambda image: encoded(image, "JPEG", quality=95)),
    "turned": (".jpg", _turned),
    "moving": (".png", _moving),
    "deep/er/down": (".png", lambda image: encoded(image, "PNG")),
    "grün": (".png", lambda image: encoded(image, "PNG")),
    "no_objects": (".png", lambda image: encoded(image, "PNG")),
}
