"""Images and masks: any bytes, wounded files of every format; what is whole is read."""

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from common.images import image_size, read_image, read_within, working_size
from dataset.mask_png import mask_made_by, read_mask, write_mask
from tests.fuzz.support import any_bytes, read_or_refuse

pytestmark = pytest.mark.slow

MOST = 1 << 24  # pixels that are decoded here: wounds may make a header promise many


def photo(mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(noise).resize((19, 13), Image.Resampling.BICUBIC).convert(mode)


def saved(file_format: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = BytesIO()
    photo(mode).save(stream, file_format, **options)
    return stream.getvalue()


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x010E] = 6, "a description"
    return found


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("made_by", '{"format": 3}')
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="8"/>', zip=True)
    return info


FILES = {
    "jpg": [saved("JPEG", exif=exif()), saved("JPEG", progressive=True), saved("JPEG", "CMYK"), saved("JPEG", "L")],
    "png": [saved("PNG", mode) for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16", "1")]
    + [saved("PNG", pnginfo=texts(), exif=exif())],
    "webp": [saved("WEBP"), saved("WEBP", lossless=True, exif=exif())],
    "gif": [saved("GIF"), saved("GIF", save_all=True, append_images=[photo("L")])],
    "tiff": [saved("TIFF", compression=kind) for kind in (None, "tiff_deflate", "tiff_lzw", "jpeg", "packbits")],
    "bmp": [saved("BMP"), saved("BMP", "P"), saved("PPM"), saved("PPM", "L")],
    "avif": [saved("AVIF")],
}


def check(path: Path, data: bytes) -> Image.Image | None:
    """Every reader, whatever the bytes; returns the image where it can be read."""
    size = read_or_refuse(image_size, path, data)
    if size is None or size[0] * size[1] > MOST:
        return None
    image = read_or_refuse(read_image, path, data)
    if image is not None:
        assert image.mode == "RGB" and (image.height, image.width) == size
        small = read_or_refuse(lambda path: read_within(path, 50), path, data)
        assert small is not None and (small.height, small.width) == working_size(size, 50)
    return image


@pytest.mark.parametrize("suffix", sorted(FILES))
def test_the_files_that_are_wounded_below_are_whole(suffix: str) -> None:
    for data in FILES[suffix]:
        image = check(Path(f"i.{suffix}"), data)
        assert image is not None and sorted(image.size) == [13, 19]


@pytest.mark.parametrize("suffix", sorted(FILES))
@given(st.data())
def test_any_bytes(suffix: str, data: st.DataObject) -> None:
    others = [files[0] for files in FILES.values()]
    check(Path(f"i.{suffix}"), data.draw(any_bytes(*FILES[suffix], *others)))


# --- masks ----------------------------------------------------------------------------------------

LABELS = np.arange(200, dtype=np.uint8).reshape(10, 20)


@cache
def masks() -> list[bytes]:
    """Written once; the first test that asks has a folder of its own."""
    found = []
    for index, (palette, made_by) in enumerate(((False, ""), (True, '{"a": "ä"}'), (False, "x" * 300))):
        path = Path(f"{index}.png")
        write_mask(path, LABELS, palette, made_by)
        found.append(path.read_bytes())
    return found


def check_mask(data: bytes) -> np.ndarray | None:
    path = Path("m.png")
    size = read_or_refuse(image_size, path, data)
    if size is None or size[0] * size[1] > MOST:
        return None
    labels = read_or_refuse(read_mask, path, data)
    assert labels is None or (labels.dtype == np.uint8 and labels.ndim == 2)
    record = read_or_refuse(mask_made_by, path, data)
    assert record is None or isinstance(record, str)
    return labels


@given(st.data())
def test_any_bytes_of_a_mask(data: st.DataObject) -> None:
    whole = masks()
    for each in whole:
        assert np.array_equal(check_mask(each), LABELS)  # type: ignore[arg-type]
        Path("m.png").unlink()
    check_mask(data.draw(any_bytes(*whole)))
