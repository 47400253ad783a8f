"""Files of regions: written by scripts/propose.py, read from anybody.

<id>.png  label map, 8 or 16 bits: every value is a region; 65,535 of 16 bits is none
<id>.npy  label map of integers, negative numbers are no region; or masks (Q, H, W) of 0 and 1
<id>.npz  `masks` (Q, H, W) of 0 and 1; or run lengths or soft masks (pipeline/steps/regions.py)
<id>.json  masks as COCO's run lengths: a list of {"size": [H, W], "counts": ...} or of {"segmentation": that}, or such
          a list as `annotations`, as in the files of SA-1B
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle  # type: ignore[import-untyped]

from common.errors import StopRun, UserError, in_short
from common.files import atomic_write, is_file, open_regular
from common.images import MOST_PIXELS, opened
from common.npz import MOST_BYTES, opened_npz, read_npy
from common.provenance import parse_record, record_text
from dataset.mask_png import mask_made_by, write_mask
from pipeline.steps.regions import NO_REGION, LabelMap, Regions, RunLengths, regions_of

ENDINGS = (".png", ".npy", ".npz", ".json")
EXPECTED = "a label map (png, npy) or masks (npz, json) of the photo's regions"
REMEDY = "make it again or remove it"


def ending_of(regions: Regions) -> str:
    return ".png" if isinstance(regions, LabelMap) else ".npz"


def write_regions(path: Path, regions: Regions, made_by: Mapping[str, Any]) -> None:
    """Write one photo's regions, whole or not at all. `made_by` must be JSON-serialisable."""
    if isinstance(regions, LabelMap):
        write_mask(path, regions.arrays()["labels"], made_by=record_text(made_by))
        return
    with atomic_write(path) as stream:
        arrays = {**regions.arrays(), "made_by": np.array(record_text(made_by))}
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_record(path: Path) -> dict[str, Any]:
    """How the file was made; empty when it does not say. Raises UserError for a file that is damaged anywhere."""
    try:
        if path.suffix == ".png":
            return parse_record(mask_made_by(path))
        with _arrays(path) as arrays:
            for name in arrays:
                arrays[name]
            return parse_record(str(arrays["made_by"])) if "made_by" in arrays else {}
    except ValueError:
        return {}


def find_file(folder: Path, image_id: str) -> Path:
    """The file of a photo's regions; raises UserError when there is none."""
    for ending in ENDINGS:
        if is_file(path := folder / f"{image_id}{ending}"):
            return path
    raise UserError(
        f"{folder / image_id}: no regions for this photo; expected {image_id}.png, .npy, .npz or .json there"
    )


def read_regions(path: Path, least: int = 1) -> Regions:
    """The regions of a file.

    Raises UserError, naming it, when it is damaged, or holds too many or less than `least`.
    """
    try:
        regions = _read(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}; expected {EXPECTED}, {REMEDY}") from error
    if len(regions) < least:
        raise UserError(f"{path}: holds no region; expected {EXPECTED}, {REMEDY}")
    return regions


def _read(path: Path) -> Regions:
    if path.suffix == ".png":
        return LabelMap.of(_png(path))
    if path.suffix == ".npy":
        return _of_array(_npy(path))
    if path.suffix == ".json":
        return _of_coco(_json(path))
    with _arrays(path) as arrays:
        if "masks" in arrays:
            return _of_array(arrays["masks"])
        if not {"labels", "counts", "logits"} & set(arrays):
            raise ValueError(f"holds {in_short(', '.join(arrays) or 'nothing')}, and no `masks`")
        return regions_of(arrays)


def _arrays(path: Path) -> Any:
    return opened_npz(path, "no such file of regions", EXPECTED, REMEDY)


def _png(path: Path) -> np.ndarray:
    """(H, W) integers; NO_REGION of 16 bits becomes -1."""
    with opened(path, ("PNG",), "map") as image:
        if image.mode not in ("L", "P", "1", "I", "I;16"):
            raise ValueError(f"a {image.mode} picture, not a label map")
        values = np.array(image).astype(np.int64)
        return np.where(values == NO_REGION, -1, values) if image.mode.startswith("I") else values


def _npy(path: Path) -> np.ndarray:
    try:
        with open_regular(path) as stream:
            return read_npy(stream)
    except StopRun:
        raise
    except Exception as error:  # whatever wrong bytes lead to
        raise ValueError(f"cannot be read as an array ({in_short(error)})") from error


def _of_array(values: np.ndarray) -> Regions:
    """A label map (H, W), or masks (Q, H, W)."""
    if values.dtype.kind not in "biu" or values.ndim not in (2, 3) or (not values.size and values.ndim == 2):
        raise ValueError(f"an array of {values.dtype} of shape {values.shape}")
    if values.shape[-1] * values.shape[-2] > MOST_PIXELS or values.nbytes > MOST_BYTES:
        raise ValueError(f"an array of shape {values.shape}, which is too large")
    if values.ndim == 2:
        return LabelMap.of(values.astype(np.int64))
    masks = (mask != 0 for mask in values)
    return RunLengths.of(masks, (values.shape[1], values.shape[2]))


def _json(path: Path) -> Any:
    try:
        with open_regular(path) as stream:
            text = stream.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
        return json.loads(text)
    except StopRun:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read as JSON ({in_short(error)})") from error


def _of_coco(content: Any) -> Regions:
    """Masks of one size from COCO's run lengths, packed as text or as lists of numbers."""
    listed = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise ValueError("holds no list of masks, nor `annotations`")
    masks = [mask.get("segmentation", mask) if isinstance(mask, dict) else mask for mask in listed]
    if not all(isinstance(mask, dict) and {"size", "counts"} <= mask.keys() for mask in masks):
        raise ValueError("holds a mask without `size` and `counts`; polygons are no run lengths")
    sizes = {tuple(mask["size"]) if isinstance(mask["size"], list) else () for mask in masks}
    if len(sizes) > 1 or not all(len(size) == 2 and all(type(side) is int for side in size) for size in sizes):
        raise ValueError("holds masks of several sizes, or of none")
    height, width = next(iter(sizes), (1, 1))
    if not 0 < height * width <= MOST_PIXELS or height < 0:
        raise ValueError(f"holds masks of {height} x {width} pixels")
    texts = [_packed_text(mask["counts"], height, width) for mask in masks]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    packed = np.frombuffer(b"".join(texts), np.uint8)
    return regions_of({"counts": packed, "ends": ends, "grid": np.array([height, width])})


def _packed_text(counts: Any, height: int, width: int) -> bytes:
    """The run lengths of a mask as pycocotools packs them; a text is checked later."""
    if isinstance(counts, str):
        return counts.encode("ascii", "replace")
    valid = isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts)
    if not valid or sum(counts) != height * width:
        raise ValueError(f"holds run lengths that are not those of {height} x {width} pixels")
    return bytes(rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"])
