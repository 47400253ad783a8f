"""Small pictures that travel inside a page: how large, how encoded.

A tile is one small WebP file: photos lossy, labels without loss. The heat of a CAM is stored alone, at about the
size of the patch grid it came from, and the page lays it over the photo; that makes one map a class affordable.
"""

import base64
import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from report.pictures import colour_labels, difference, heat_colours

if TYPE_CHECKING:
    from dataset.spec import DatasetSpec
    from report.stage_gallery import Pictures

# (images at most, longer side in pixels); why, see `tile_size`
SIZES = ((300, 256), (1_500, 192), (4_000, 160), (10_000, 112), (20_000, 96))
SMALLEST = 64
HEAT_SIZE = 32
PHOTO_QUALITY, HEAT_QUALITY = 60, 70


def tile_size(count: int) -> int:
    """The longer side of a photo tile in a gallery of `count` images, so that the page stays below about 60 MB.

    Measured on VOC photos with two CAMs, base64 included: 256 px cost 15 KB an image, 192 px 10, 160 px 8,
    112 px 5.4, 96 px 4.7, 64 px 3.1.
    """
    return next((size for most, size in SIZES if count <= most), SMALLEST)


def tiles_of(pictures: "Pictures", spec: "DatasetSpec", size: int) -> list[bytes]:
    """Photo, mask, truth, difference and one heat a CAM as WebP files; empty bytes for what is not there."""
    photo, mask, truth = pictures.photo, pictures.mask, pictures.truth
    tiles = [
        webp(shrink(photo, size), PHOTO_QUALITY) if photo is not None else b"",
        webp(colour_labels(shrink(mask, size, exact=True))),
    ]
    if truth is None:
        tiles += [b"", b""]
    else:
        wrong = difference(mask, truth, spec.num_labels, spec.has_background)
        tiles += [webp(colour_labels(shrink(truth, size, exact=True))), webp(shrink(wrong, size, exact=True))]
    return tiles + [webp(heat_colours(shrink(heat, HEAT_SIZE)), HEAT_QUALITY) for heat in pictures.maps]


def shrink(image: np.ndarray, size: int, exact: bool = False) -> np.ndarray:
    """The image with its longer side at most `size`; `exact` picks values (labels) instead of averaging them."""
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, target, interpolation=cv2.INTER_NEAREST_EXACT if exact else cv2.INTER_AREA)


def webp(rgb: np.ndarray, quality: int | None = None) -> bytes:
    """(H, W, 3) uint8 as a WebP file; without a quality: without loss."""
    stream = io.BytesIO()
    lossless = quality is None
    Image.fromarray(rgb).save(stream, "WEBP", lossless=lossless, quality=80 if quality is None else quality, method=4)
    return stream.getvalue()


def as_text(tiles: list[bytes]) -> bytes:
    """Tiles in base64 with a space between, `-` for an empty one: no character that means anything in HTML."""
    return b" ".join(base64.b64encode(tile) or b"-" for tile in tiles)
