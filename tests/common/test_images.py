"""Images of any kind come out as upright RGB, and broken ones as one UserError."""

import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from common import images
from common.errors import UserError
from common.images import FORMATS, image_size, note_on, read_image
from tests.support import ROOT, photo

ORIENTATION = 0x0112


def with_orientation(pixels: np.ndarray, orientation: int, file_format: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = "a description"
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, file_format, exif=exif)
    return stream.getvalue()


UPRIGHT = {  # what a viewer does with each orientation, by the EXIF standard
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2), 8: lambda p: np.rot90(p),
}  # fmt: skip


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(tmp_path: Path, file_format: str) -> None:
    """The size from the header is that of the image; values that the standard does not know change nothing."""
    pixels, path = photo((6, 9), 0), tmp_path / "i"
    for orientation in range(11):
        path.write_bytes(with_orientation(pixels, orientation, file_format))
        image, upright = read_image(path), UPRIGHT.get(orientation, UPRIGHT[1])(pixels)
        assert image_size(path) == (image.height, image.width) == upright.shape[:2]
        if file_format in ("PNG", "TIFF"):  # without loss
            assert np.array_equal(image, upright)


GREY = np.array([[0, 100], [200, 255]], np.uint8)


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (Image.fromarray(GREY), "png"),
        (Image.fromarray(GREY), "jpg"),
        (Image.fromarray(GREY).convert("P"), "png"),
        (Image.fromarray(GREY).convert("RGBA"), "png"),
        (Image.fromarray(GREY).convert("LA"), "png"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "png"),  # 16 bit
        (Image.fromarray(GREY.astype(np.int32) * 257), "tiff"),  # 32 bit with 16-bit values
        (ImageOps.invert(Image.fromarray(GREY).convert("RGB")).convert("CMYK"), "tiff"),
    ],
)
def test_every_mode_becomes_the_same_grey_rgb(tmp_path: Path, image: Image.Image, suffix: str) -> None:
    path = tmp_path / f"i.{suffix}"
    image.save(path)
    found, wanted = np.asarray(read_image(path)), GREY
    assert found.shape == (2, 2, 3)
    if image.mode == "CMYK":
        wanted = 255 - GREY
    assert np.abs(found.astype(int) - wanted[..., None]).max() <= (30 if suffix == "jpg" else 0)


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return np.array([[round(255 * (int(value) - int(low)) / int(high - low)) for value in row] for row in values])


@pytest.mark.parametrize(("low", "high", "shifted"), [(0, 4095, False), (30_000, 40_000, False), (0, 40_000, True)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_values_that_use_a_part_of_their_range_are_stretched(
    tmp_path: Path, low: int, high: int, shifted: bool, suffix: str
) -> None:
    values = np.linspace(low, high, 48).reshape(6, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"i.{suffix}")
    image = read_image(tmp_path / f"i.{suffix}")
    found = np.asarray(image)[..., 0]
    assert np.abs(found - (values // 256 if shifted else stretched(values))).max() <= 1
    assert ("stretched" in note_on(image)) == (not shifted)


@pytest.mark.parametrize(("spread", "flat"), [(0, True), (2, True), (60, False)])
def test_a_photo_of_nearly_one_colour_is_noted(spread: int, flat: bool) -> None:
    """Noise does not hide it; a gentle slope of brightness is a picture."""
    noise = np.random.default_rng(0).normal(0, 6, (300, 400, 3))
    slope = np.linspace(0, spread, 400)[None, :, None]
    image = Image.fromarray((120 + slope + noise).clip(0, 255).astype(np.uint8))
    assert note_on(image) == ("nearly one colour, is the file right?" if flat else "")


def test_more_than_half_a_billion_pixels_are_not_opened(tmp_path: Path) -> None:
    """By the header: 20,000 x 25,000 are opened, a column more is not."""
    Image.new("P", (1, 1)).save(tmp_path / "i.gif")
    whole = (tmp_path / "i.gif").read_bytes()
    for width, height in ((20_000, 25_000), (20_001, 25_000)):
        (tmp_path / "i.gif").write_bytes(whole[:6] + struct.pack("<HH", width, height) + whole[10:])
        if width == 20_000:
            assert image_size(tmp_path / "i.gif") == (height, width)
            continue
        with pytest.raises(UserError, match="too many pixels to be opened safely; make it smaller"):
            read_image(tmp_path / "i.gif")


def test_broken_exif_is_harmless_or_named(tmp_path: Path) -> None:
    """Cameras and editors write all sorts of EXIF; no error but a UserError may come of it."""
    whole, path = with_orientation(photo((6, 9), 0), 6, "JPEG"), tmp_path / "i.jpg"
    start, generator = whole.index(b"Exif"), np.random.default_rng(0)
    length, sizes = int.from_bytes(whole[start - 2 : start], "big"), set()
    for _ in range(600):
        changed = bytearray(whole)
        for place in generator.integers(start + 6, start + length - 2, 3):
            changed[place] = int(generator.integers(256))
        path.write_bytes(bytes(changed))
        try:
            image = read_image(path)
        except UserError as error:
            assert str(path) in str(error)
            continue
        assert image_size(path) == (image.height, image.width)
        sizes.add(image.size)
    assert sizes == {(9, 6), (6, 9)}


def test_an_image_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "i.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 9999)
    with pytest.raises(UserError, match=r"i\.png: too many pixels"):
        read_image(tmp_path / "i.png")


@pytest.mark.parametrize("file_format", sorted({*FORMATS} - {"TIFF"}))  # whose reader in PIL knows no other limit
@pytest.mark.filterwarnings("error")
def test_pils_own_limit_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "i", file_format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert read_image(tmp_path / "i").size == (100, 100)


STATE = """
import sys, warnings
import numpy
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin
def state():
    classes = (TiffImagePlugin.ImageFileDirectory_v2, TiffImagePlugin.TiffImageFile, JpegImagePlugin.JpegImageFile,
               Image.Image, Image.Exif, ImageFile.ImageFile)
    return [{name: id(value) for name, value in vars(one).items()} for one in classes] + [
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)]
Image.init()
before, openers = state(), dict(Image.OPEN)
import common.images
sys.exit(state() != before or Image.OPEN != openers)
"""


def test_importing_leaves_pil_and_the_warnings_as_they_were() -> None:
    assert subprocess.run([sys.executable, "-c", STATE], cwd=ROOT, check=False).returncode == 0


def test_warnings_are_shown_after_many_threads_read_images(tmp_path: Path) -> None:
    """Filters of warnings belong to the whole process; threads that change and restore them lose them."""
    for index in range(8):
        Image.fromarray(photo((60, 90), index)).save(tmp_path / f"{index}.jpg")
    paths = [tmp_path / f"{index % 8}.jpg" for index in range(400)]
    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert {image.size for image in pool.map(read_image, paths)} == {(90, 60)}
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)
