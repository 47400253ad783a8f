"""Superpixels: regions of alike colour (Felzenszwalb and Huttenlocher, 2004), whose patches should share a group.

A map of superpixels belongs to the stored form of an image (segclip/training/views.py) and is kept as a 16-bit PNG.
"""

import io
from math import ceil, floor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from common.errors import UserError
from common.files import atomic_write
from common.images import opened
from dataset.mask_png import made_here

SETTINGS = {"scale": 224, "sigma": 0.9, "min_size": 224}  # published, for images whose shorter side is 224
MOST_IDS = 1 << 16
REMEDY = "python -m scripts.superpixels makes it again"

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of the image's width and height


def maps_beside(images: Path) -> Path:
    """Where the maps of a folder of images lie when nothing else is said."""
    folder = images.resolve()
    return folder.with_name(f"{folder.name}-superpixels")


def superpixels(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (H, W) uint16 ids from 0 on; raises UserError for more ids than 16 bits hold."""
    from skimage.segmentation import felzenszwalb

    ids = felzenszwalb(rgb, **SETTINGS, channel_axis=-1)
    if ids.max() >= MOST_IDS:
        raise UserError(f"more than {MOST_IDS} superpixels; make the image smaller")
    return ids.astype(np.uint16)


def encode_ids(ids: np.ndarray, made_by: str = "") -> bytes:
    """(H, W) uint16 as a 16-bit grey PNG; `made_by` goes into a text chunk of that name."""
    stream = io.BytesIO()
    Image.fromarray(ids).save(stream, "PNG", pnginfo=made_here(made_by))
    return stream.getvalue()


def write_ids(path: Path, ids: np.ndarray, made_by: str) -> None:
    """The same as a file, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(encode_ids(ids, made_by))


def read_ids(path: Path, size: tuple[int, int], data: bytes | None = None) -> np.ndarray:
    """The (H, W) uint16 ids of a PNG, 16 or 8 bits deep.

    size  (H, W) of the stored form of its image
    data  as in common.images.opened
    Raises UserError, naming the map, when it is no such PNG or of another size.
    """
    with opened(path, ("PNG",), "map of superpixels", data) as image:
        if not (image.mode.startswith("I") or image.mode == "L"):
            raise UserError(f"{path}: a {image.mode} picture, no map of superpixels; {REMEDY}")
        ids = np.array(image)
    if ids.shape != size:
        found, wanted = (f"{side[1]}x{side[0]}" for side in (ids.shape, size))
        raise UserError(f"{path}: superpixels of {found} pixels for an image stored as {wanted}; {REMEDY}")
    return ids.astype(np.uint16)


def patch_ids(ids: np.ndarray, corners: Corners, side: int, patch: int, rule: str = "mean") -> np.ndarray:
    """The superpixel of every patch of a crop: (side/patch * side/patch,) int64, row by row.

    ids   (H, W) of the whole image
    rule  "mean": the mean of the ids of a patch's pixels, cut to a whole number, as published, by which patches of
          different superpixels may get one id; "most": the id of most of its pixels
    A crop of less than 2 pixels a side means the whole image, as published.
    """
    height, width = ids.shape
    scale = np.array([width, height, width, height], np.float32)
    left, top, right, bottom = (np.array(corners, np.float32) * scale).tolist()
    part = ids[floor(top) : ceil(bottom), floor(left) : ceil(right)]
    if min(part.shape) < 2:
        part = ids
    pixels = F.interpolate(torch.from_numpy(part.astype(np.float32))[None, None], (side, side), mode="nearest")
    count = side // patch
    cells = pixels.view(count, patch, count, patch).transpose(1, 2).reshape(count * count, patch * patch)
    return (cells.mean(1) if rule == "mean" else cells.mode(1).values).long().numpy()
