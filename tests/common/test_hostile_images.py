"""Files with an image's name that are no image, or one that means harm: one line each, without waiting or memory."""

import errno
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from common.errors import UserError
from common.files import open_regular
from common.images import image_size, read_image, read_within
from tests.support import ROOT, photo

READERS: list[Callable[[Path], object]] = [read_image, image_size, lambda path: read_within(path, 100)]


def refused(path: Path, words: str) -> None:
    """By every reader, in one short line that names the file."""
    for read in READERS:
        with pytest.raises(UserError, match=words) as caught:
            read(path)
        said = str(caught.value)
        assert said.startswith(f"{path}: ") and said.isprintable() and len(said) < len(str(path)) + 200


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colours: int = 2) -> bytes:
    """A PNG with any size in its header, and whatever chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def pixels_of(width: int, height: int) -> bytes:
    """The pixel chunk of a black RGB picture."""
    return chunk(b"IDAT", zlib.compress(bytes((3 * width + 1) * height)))


# --- what is opened -------------------------------------------------------------------------------


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "i.jpg")
    refused(tmp_path / "i.jpg", "a pipe, socket or device")


def test_devices_and_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    refused(tmp_path / "zero.png", "a pipe, socket or device")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nothing")
    refused(tmp_path / "loop.png", "not a readable image")
    refused(tmp_path / "gone.png", "no such image")


def test_what_the_system_refuses_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numbers, and with the file's name once. Whoever runs the tests may be allowed to read everything."""

    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "i.jpg").write_bytes(b"")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / "i.jpg")
    said = "the image cannot be read (Permission denied); change its rights or remove it"
    assert str(caught.value) == f"{tmp_path / 'i.jpg'}: {said}"


def test_a_regular_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"hello"


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(made) (w) file\n",  # PIL would start gs
        b"%PDF-1.7\n",
        b"\x00\x00\x01\x00\x01\x00",  # an icon
        b"GIF89a",
        b"\xff\xd8\xff",
        b"RIFF\x04\x00\x00\x00WEBP",
        b"II*\x00\x08\x00\x00\x00\xff\xff",
        b"P6 99999999999999999999 1 255\n",
        b"BM" + bytes(60),
    ],
)
def test_other_formats_and_beginnings_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "i.png").write_bytes(data)
    refused(tmp_path / "i.png", "not a readable image")


def test_of_several_pictures_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    for name in ("a.gif", "a.tiff", "a.png", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert image_size(tmp_path / name) == (4, 5)
        assert np.asarray(read_image(tmp_path / name))[2, 2].tolist() == [200, 0, 0], name


def test_a_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "i.jpg", quality=95)
    red = np.asarray(read_image(tmp_path / "i.jpg"))[8, 8].astype(int)
    assert abs(red - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "i.png", transparency=transparency)
    assert np.asarray(read_image(tmp_path / "i.png")).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


BIG, LITTLE, TEXT = (b"\0\x4d", b"\x2e\xe0"), (b"\x4d\0", b"\xe0\x2e"), (b"77 77", b"12000 12000")
CLAIMS = {"png": BIG, "gif": LITTLE, "bmp": LITTLE, "tiff": LITTLE, "ppm": TEXT}  # 77 becomes 12,000


@pytest.mark.parametrize("suffix", [*CLAIMS, "jpg", "webp", "avif"])
def test_a_file_that_ends_early_or_claims_another_size(tmp_path: Path, suffix: str) -> None:
    stream, path = BytesIO(), tmp_path / f"i.{suffix}"
    formats = {"jpg": "JPEG", "ppm": "PPM", "tiff": "TIFF"}
    Image.fromarray(photo((77, 77), 0)).save(stream, formats.get(suffix, suffix.upper()))
    whole = stream.getvalue()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable image"):
        read_image(path)
    old, new = CLAIMS.get(suffix, (whole, whole))
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    if suffix in CLAIMS:
        with pytest.raises(UserError, match=rf"i\.{suffix}: "):
            read_image(path)


# --- what hides beside the pixels -----------------------------------------------------------------


def test_a_text_that_unpacks_to_megabytes(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"made_by\0\0" + zlib.compress(bytes(100 << 20), 9))
    (tmp_path / "i.png").write_bytes(png(4, 4, text, pixels_of(4, 4)))
    refused(tmp_path / "i.png", r"not a readable image \(Decompressed data too large")


@pytest.mark.parametrize("as_text", [False, True])
def test_orientation_counts_in_exif_and_in_xmp(tmp_path: Path, as_text: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6' tiff:Orientation=\"6\"/>"
    note = chunk(b"iTXt", xmp) if as_text else chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "i.png").write_bytes(png(5, 3, note, pixels_of(5, 3)))
    assert image_size(tmp_path / "i.png") == (5, 3)
    assert read_image(tmp_path / "i.png").size == read_within(tmp_path / "i.png", 100).size == (3, 5)


def test_the_size_of_a_png_is_known_without_decoding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(photo((30, 50), 0)).save(tmp_path / "i.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda image: pytest.fail("decoded"))
    assert image_size(tmp_path / "i.png") == (30, 50)


# --- memory, in a process of its own --------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
import cv2, numpy
from common.errors import UserError
from common.images import image_size, read_image, read_within
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
before = peak()
try:
    print({call})
except UserError as error:
    print("refused", error)
print(peak() - before)
"""


def peak_of(call: str) -> tuple[str, int]:
    """What a call prints, and by how many MiB the process grew at most.

    A shell lies between: the peak of whoever starts a program counts as the program's own (Linux), and would hide it.
    """
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    command = [*shell, sys.executable, "-c", PEAK.replace("{call}", call)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said, grown = ended.stdout.rsplit("\n", 2)[:2]
    return said, int(grown)


def test_a_header_that_promises_more_than_there_is_costs_no_memory(tmp_path: Path) -> None:
    """20,000 x 20,000 pixels promised: refused before 1.6 GB are touched."""
    (tmp_path / "i.png").write_bytes(png(20_000, 20_000, chunk(b"IDAT", os.urandom(1_300))))
    said, grown = peak_of(f"read_image(Path({str(tmp_path / 'i.png')!r}))")
    assert said.startswith("refused") and grown < 100


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_large_image_takes_little_more_than_its_decoded_form(tmp_path: Path, suffix: str) -> None:
    """8,000 x 8,000 pixels are 256 MB in PIL, of a JPEG an eighth of the side each way; then what is asked for."""
    path = tmp_path / f"i.{suffix}"
    large = Image.fromarray(photo((500, 500), 0)).resize((8000, 8000), Image.Resampling.NEAREST)
    large.save(path, **({"compress_level": 1} if suffix == "png" else {}))
    bound = 120 if suffix == "jpg" else 400
    for call in ("read_within(path, 1000000).size", "read_image(path, enough=(512, 512)).size", "image_size(path)"):
        said, grown = peak_of(call.replace("path", f"Path({str(path)!r})"))
        assert "refused" not in said and grown < bound, call
