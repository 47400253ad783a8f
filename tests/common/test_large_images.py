"""Images that are worked on at a smaller size: which size, and pixels that are means of areas, found by naive loops."""

from math import ceil, floor
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common import images
from common.images import image_size, read_image, read_within, working_size
from tests.common.test_images import UPRIGHT, with_orientation
from tests.support import photo


@pytest.mark.parametrize(
    ("size", "most", "working"),
    [
        ((480, 640), 480 * 640, (480, 640)),
        ((3000, 4000), 3_000_000, (1500, 2000)),
        ((20_000, 20_000), 3_000_000, (1732, 1732)),
        ((1, 10_000), 3_000_000, (1, 10_000)),
        ((10_000, 1), 100, (100, 1)),
        ((1, 1), 1, (1, 1)),
        ((2, 3), 1, (1, 1)),
        ((1, 100_000_000), 3_000_000, (1, 65_536)),  # no side is longer
        ((100, 400_000), 500_000_000, (16, 65_536)),
    ],
)
def test_working_size(size: tuple[int, int], most: int, working: tuple[int, int]) -> None:
    assert working_size(size, most) == working


SIDE = st.one_of(st.integers(1, 40), st.integers(1, 10**6))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(SIDE, SIDE, st.integers(1, 10**7))
def test_working_size_of_anything(height: int, width: int, most: int) -> None:
    """Never empty, never larger than the image or the bound; of the same shape where that has more than a row."""
    small = working_size((height, width), most)
    assert 1 <= small[0] <= height and 1 <= small[1] <= width and small[0] * small[1] <= most
    if min(small) > 100:
        assert abs(small[0] / small[1] / (height / width) - 1) < 0.02
    if height * width > most and max(height, width) < 65_536 and min(small) > 1:
        assert (small[0] + 1) * (small[1] + 1) > most  # no smaller than it must be


def area_means(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, c) to (H', W', c): each pixel the mean of the area it covers, pixels counted by the share inside."""
    out = np.empty((*size, pixels.shape[2]))
    for y, x in np.ndindex(*size):
        rows, columns = (shares(at, old, new) for at, old, new in zip((y, x), pixels.shape, size))
        weights = rows[:, None] * columns
        out[y, x] = (pixels * weights[..., None]).sum(axis=(0, 1)) / weights.sum()
    return out


def shares(at: int, old: int, new: int) -> np.ndarray:
    start, end, found = at * old / new, (at + 1) * old / new, np.zeros(old)
    for index in range(floor(start), min(ceil(end), old)):
        found[index] = min(end, index + 1) - max(start, index)
    return found


@pytest.mark.parametrize(("size", "most"), [((24, 36), 216), ((31, 40), 500), ((1, 90), 40), ((77, 3), 60)])
def test_pixels_are_means_of_areas(tmp_path: Path, size: tuple[int, int], most: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "i.png")
    small = np.asarray(read_within(tmp_path / "i.png", most))
    working = working_size(size, most)
    assert working != size and small.shape == (*working, 3)
    assert np.abs(small - area_means(pixels, working)).max() <= 1


@pytest.mark.parametrize("most", [40 * 31, 10**9])
def test_images_within_the_bound_are_not_touched(tmp_path: Path, most: int) -> None:
    Image.fromarray(photo((31, 40), 0)).save(tmp_path / "i.jpg")
    assert read_within(tmp_path / "i.jpg", most).tobytes() == read_image(tmp_path / "i.jpg").tobytes()


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("large", [False, True])
def test_a_smaller_copy_is_upright_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, large: bool
) -> None:
    if large:
        monkeypatch.setattr(images, "LARGE", 100)
    pixels, path = photo((36, 54), 0), tmp_path / "i.png"
    path.write_bytes(with_orientation(pixels, orientation, "PNG"))
    upright = UPRIGHT[orientation](pixels)
    small = np.asarray(read_within(path, 216))
    assert small.shape[:2] == working_size(upright.shape[:2], 216) == working_size(image_size(path), 216)
    assert np.abs(small - area_means(upright, small.shape[:2])).max() <= 1


# --- large ones, which are brought near their working size first ----------------------------------


@pytest.fixture
def tiny_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of more than 100 pixels is large."""
    monkeypatch.setattr(images, "LARGE", 100)


MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"]


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(photo(size, 0))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_smaller(tmp_path: Path, tiny_limits: None, mode: str) -> None:
    """72 x 108 to 12 x 18: blocks of 3 x 3 pixels and of 2 x 2 of these, whose means are exact."""
    path = tmp_path / ("i.tiff" if mode == "CMYK" else "i.png")
    image = picture(mode, (72, 108))
    image.save(path)
    rgb = np.asarray(picture("L", (72, 108)).convert("RGB") if mode == "I;16" else image.convert("RGB"))
    wanted = rgb.reshape(12, 6, 18, 6, 3).mean(axis=(1, 3))
    for small in (read_within(path, 216), read_image(path, enough=(12, 18))):
        assert np.abs(np.asarray(small) - wanted).max() <= 1


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (3, 777), (211, 203), (101, 307)])
def test_large_images_of_any_shape(tmp_path: Path, tiny_limits: None, size: tuple[int, int]) -> None:
    """A slope along each axis shows where every pixel comes from: nowhere more than half a pixel from its place."""
    height, width = size
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    Image.fromarray(pixels).save(tmp_path / "i.png")
    small = np.asarray(read_within(tmp_path / "i.png", 90))
    assert small.shape[:2] == working_size(size, 90)
    off = np.abs(small - area_means(pixels, small.shape[:2])).max(axis=(0, 1))
    assert off[0] <= 127 / small.shape[1] + 1 and off[1] <= 127 / small.shape[0] + 1 and off[2] == 0


def test_a_jpeg_is_decoded_at_a_smaller_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE", 100)
    pixels, path = photo((320, 480), 0), tmp_path / "i.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    decoded = []
    rgb = images._rgb
    monkeypatch.setattr(images, "_rgb", lambda image: decoded.append(image.size) or rgb(image))
    small = np.asarray(read_within(path, 40 * 60))
    assert decoded == [(120, 80)] and small.shape == (40, 60, 3)
    assert np.abs(small - pixels.reshape(40, 8, 60, 8, 3).mean(axis=(1, 3))).max() < 8


@pytest.mark.parametrize("enough", [(40, 60), (41, 20), (20, 61), (100, 100)])
def test_what_is_asked_for_is_no_bound_but_a_permission(
    tmp_path: Path, tiny_limits: None, enough: tuple[int, int]
) -> None:
    """An image is never made larger, and small ones are left alone."""
    pixels = photo((40, 60), 0)
    Image.fromarray(pixels).save(tmp_path / "i.png")
    assert np.array_equal(read_image(tmp_path / "i.png", enough), pixels)


def test_large_images_are_decoded_one_at_a_time(
    tmp_path: Path, tiny_limits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several threads at once: whenever one decodes, no other does."""
    Image.fromarray(photo((40, 60), 0)).save(tmp_path / "i.png")
    at_work, most = [0], [0]
    load = Image.core.new  # called where the memory for the pixels is taken

    def counted(*given: object) -> object:
        at_work[0] += images._one_large.locked()
        most[0] = max(most[0], at_work[0])
        try:
            return load(*given)
        finally:
            at_work[0] -= images._one_large.locked()

    monkeypatch.setattr(Image.core, "new", counted)
    threads = [Thread(target=read_within, args=(tmp_path / "i.png", 90)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and not images._one_large.locked()
