"""The CAM file, read and written without pickle.

Three forms, with different arrays (shapes in pipeline/__init__.py):
  patch grid  keys (k,), cam and attn (k, h, w) float16, size (2,) = (H, W)             the default, small
  regions     keys (k,), scores (Q, k) float16, size, the regions (pipeline/steps/regions.py)  of such methods, small
  full size   keys (k,), highres and attn_highres (k, H, W) float16                     the reference's names
Where the maps after an affinity would be the same as before it, the file holds `cam` or `highres` alone, unless they
are CAMs. Maps of the kind "score" are float32. `groups` (h, w) uint8, where a method keeps them, says which group each
place is of.
All hold `made_by`, the record of how the file was made (common/provenance.py). Every reader takes any form.

A file may come from anywhere: whatever its bytes, reading it ends in a valid value or a UserError.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, in_short
from common.files import atomic_write
from common.images import MOST_PIXELS
from common.npz import MOST_BYTES, opened_npz
from common.provenance import parse_record, record_text
from dataset.spec import DatasetSpec
from pipeline.steps.kinds import BOUNDLESS, KINDS, stored, to_heat
from pipeline.steps.maps import Cams, resize_maps, resized_rows, shrink_maps, strips
from pipeline.steps.regions import RegionMaps, regions_of

CAM_TYPES = ("attn_highres", "highres")  # refined and unrefined; the reference's names, for either form of file
MOST_KEYS = 255
SLACK = 1e-3  # beyond [0, 1], for float16 and other programs' rounding
_PATCH_NAMES = {"attn_highres": "attn", "highres": "cam"}


def spec_fingerprint(spec: DatasetSpec) -> str:
    """16 hex digits that name the classes, their order and their prompts."""
    words = json.dumps([spec.template, spec.classes, spec.prompts, spec.background_prompts])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def check_classes(path: Path, made_by: Mapping[str, Any], spec: DatasetSpec) -> None:
    """Raise UserError when a CAM file was made for other classes or prompts; files that do not say are trusted."""
    if made_by.get("prompts", spec_fingerprint(spec)) != spec_fingerprint(spec):
        raise UserError(f"{path}: made for other classes or prompts than those of {spec.name} now; make the CAMs again")


def save_cams(path: Path, cams: Cams, made_by: Mapping[str, Any], full_size: bool = False) -> None:
    """Write one image's CAM file, whole or not at all. `made_by` must be JSON-serialisable.

    Raises UserError for an image that is too large for maps at full size.
    """
    arrays: dict[str, np.ndarray] = {"keys": cams.keys.astype(np.int64)}
    kind = made_by.get("kind", "cam")
    names = ("highres", "attn_highres") if full_size else ("cam", "attn")
    same = cams.attn is cams.cam and kind != "cam"
    for name, maps in zip(names, (cams.cam,) if same else (cams.cam, cams.attn)):
        if full_size:
            arrays[name] = _at_full_size(path, maps, cams, kind)
        elif isinstance(maps, RegionMaps):
            arrays |= maps.arrays()
        else:
            arrays[name] = stored(maps, kind)
    if not full_size:
        arrays["size"] = np.array(cams.size, np.int32)
    arrays["made_by"] = np.array(record_text(made_by))
    if cams.groups is not None:
        arrays["groups"] = cams.groups
    with atomic_write(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _at_full_size(path: Path, maps: np.ndarray | RegionMaps, cams: Cams, kind: str) -> np.ndarray:
    """(k, h, w) to (k, H, W) in the type of the kind, class by class; regions in strips of rows."""
    height, width = cams.size
    dtype = stored(np.empty(0), kind).dtype
    if 2 * dtype.itemsize * len(cams.keys) * height * width > MOST_BYTES // 2:  # two arrays, and half for all else
        raise UserError(f"{path}: maps of {len(cams.keys)} x {height} x {width} are too large a file; use --save grid")
    full = np.empty((len(cams.keys), height, width), dtype)
    if isinstance(maps, RegionMaps):
        for rows in strips(cams.size, len(cams.keys)):
            full[:, rows] = maps.rows(cams.size, rows)
        return full
    for index in range(len(maps)):
        full[index] = resize_maps(maps[index : index + 1], cams.size)[0]
    return full


@dataclass(frozen=True)
class StoredMaps:
    """One image's maps as they lie in a file.

    keys     (k,) int64, each once
    maps     (k, h, w) on the patch grid, or (k, H, W); floats in [0, 1], of any size where they are logits. Or regions
    size     (H, W) of the image
    made_by  the file's record; empty when it has none
    """

    keys: np.ndarray
    maps: np.ndarray | RegionMaps
    size: tuple[int, int]
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the values of the maps are: one of pipeline.steps.kinds.KINDS."""
        return kind_of(self.made_by)

    def resized(self, size: tuple[int, int]) -> np.ndarray:
        """(k, *size) float32, straight from the form in the file; `size` is the image's or smaller."""
        if isinstance(self.maps, RegionMaps):
            return self.maps.resized(size)
        if self.maps.shape[1:] == size:
            return self.maps.astype(np.float32)
        return (shrink_maps if self.maps.shape[1:] == self.size else resize_maps)(self.maps, size)

    def rows(self, rows: slice) -> np.ndarray:
        """Some rows at full size, (k, rows, W) float32."""
        if rows == slice(0, self.size[0]):
            return self.resized(self.size)
        if isinstance(self.maps, RegionMaps):
            return self.maps.rows(self.size, rows)
        if self.maps.shape[1:] == self.size:
            return self.maps[:, rows].astype(np.float32)
        return resized_rows(self.maps, self.size, rows)


def load_cams(path: Path, cam_type: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One image's maps at full size, for pictures: those of other kinds are made comparable to CAMs.

    Returns keys (k,) int64 and maps (k, H, W) float32 in [0, 1]. Raises UserError as `read_maps` does, and for an image
    that is too large for that.
    """
    stored = read_maps(path, cam_type, num_classes)
    if 4 * len(stored.keys) * math.prod(stored.size) > MOST_BYTES:
        raise UserError(f"{path}: {len(stored.keys)} maps of {stored.size} are too large to be read at full size")
    return stored.keys, to_heat(stored.resized(stored.size), stored.kind)


def read_maps(path: Path, cam_type: str, num_classes: int) -> StoredMaps:
    """One image's maps as they are stored.

    cam_type     "attn_highres" or "highres"
    num_classes  K of the data set; keys must lie below
    Raises UserError, naming the file, when it is missing, damaged or not a CAM file.
    """
    with _opened(path) as arrays:
        keys = _keys(path, arrays)
        if len(keys) and not 0 <= keys.min() <= keys.max() < num_classes:
            reason = f"class index {keys.max()} where the data set has {num_classes} classes; wrong --dataset?"
            raise _unfit(path, reason)
        made_by = _made_by(arrays)
        maps: np.ndarray | RegionMaps
        if "scores" in arrays:
            name, maps = "scores", _region_maps(path, arrays, len(keys), kind_of(made_by))
        else:
            name = _name_of(arrays, cam_type, kind_of(made_by))
            maps = _maps(path, arrays, name, len(keys), kind_of(made_by))
        size = maps.shape[1:]
        if name not in CAM_TYPES:
            entry = arrays["size"] if "size" in arrays else np.zeros(0)
            size = tuple(entry.tolist()) if entry.shape == (2,) and np.issubdtype(entry.dtype, np.integer) else (0, 0)
            if min(size) < 1 or math.prod(size) > MOST_PIXELS:
                raise _unfit(path, "no image `size` (height, width)")
        # other methods enlarge small images
        finer = isinstance(maps, np.ndarray) and max(maps.shape[1] / size[0], maps.shape[2] / size[1]) > 1
        if finer and kind_of(made_by) == "cam":
            raise _unfit(path, f"`{name}` of {maps.shape[1:]} for an image of {tuple(size)}")
        return StoredMaps(keys.astype(np.int64), maps, (int(size[0]), int(size[1])), made_by)


def _name_of(arrays: Any, cam_type: str, kind: str) -> str:
    """The array that holds the maps of a type, in either form of file."""
    types = (cam_type,) if kind == "cam" else (cam_type, "highres")  # the latter where there is no affinity
    names = [name for one in types for name in (one, _PATCH_NAMES[one])]
    return next((name for name in names if name in arrays), _PATCH_NAMES[cam_type])


def read_groups(path: Path) -> np.ndarray | None:
    """The group of each place, (h, w) uint8, or None where the file does not keep them. Raises UserError."""
    with _opened(path) as arrays:
        groups = arrays.get("groups")
        if groups is not None and (groups.ndim != 2 or groups.dtype != np.uint8 or not groups.size):
            raise _unfit(path, "no groups (h, w) in `groups`")
        return groups


def read_record(path: Path) -> dict[str, Any]:
    """The record of a CAM file, with the classes of its maps as `keys`; nothing else when the file says no more.

    Raises UserError when the file is damaged anywhere: every array is read, which checks its CRC.
    """
    with _opened(path) as arrays:
        for name in arrays:
            arrays[name]
        return {**_made_by(arrays), "keys": _keys(path, arrays).tolist()}


def read_made_by(path: Path) -> dict[str, Any]:
    """The record of a CAM file; empty when it has none. Raises UserError when the file cannot be read."""
    with _opened(path) as arrays:
        return _made_by(arrays)


def kind_of(made_by: Mapping[str, Any]) -> str:
    """The kind of the maps that a record describes. Raises ValueError for one that is none of KINDS."""
    kind = made_by.get("kind", "cam")
    if kind not in KINDS:
        raise ValueError(f"maps of kind {in_short(kind)}")
    return kind


def _keys(path: Path, arrays: Any) -> np.ndarray:
    keys = arrays.get("keys")
    if keys is None or keys.ndim != 1 or len(keys) > MOST_KEYS or not np.issubdtype(keys.dtype, np.integer):
        raise _unfit(path, "no class indices `keys`")
    if len(set(keys.tolist())) < len(keys):
        raise _unfit(path, "the same class twice in `keys`")
    return keys


def _maps(path: Path, arrays: Any, name: str, count: int, kind: str) -> np.ndarray:
    maps = arrays[name] if name in arrays else np.zeros(0)
    fits = maps.dtype.kind == "f" and maps.ndim == 3 and len(maps) == count
    if not fits or not 1 <= math.prod(maps.shape[1:]) <= MOST_PIXELS:
        raise _unfit(path, f"no maps `{name}` of shape ({count}, height, width)")
    try:
        check_values(maps, kind)
    except ValueError as error:
        raise _unfit(path, f"`{name}` holds {error}") from error
    return maps


def _region_maps(path: Path, arrays: Any, count: int, kind: str) -> RegionMaps:
    """Raises UserError for scores that do not go with the regions, ValueError for damaged regions."""
    regions, scores = regions_of(arrays), arrays["scores"]
    if scores.dtype.kind != "f" or scores.shape != (len(regions), count):
        raise _unfit(path, f"no `scores` of {len(regions)} regions and {count} classes")
    if math.prod(regions.size) > MOST_PIXELS:
        raise _unfit(path, f"regions of {regions.size} pixels")
    maps = RegionMaps(regions, scores)
    check_values(maps, kind)
    return maps


def check_values(maps: np.ndarray | RegionMaps, kind: str = "cam") -> None:
    """Raise ValueError when maps hold anything but numbers, in [0, 1] (with slack for rounding) but for BOUNDLESS."""
    maps = maps.scores if isinstance(maps, RegionMaps) else maps
    if not np.isfinite(maps).all():
        raise ValueError("values that are not finite")
    bounded = kind not in BOUNDLESS and maps.size
    if bounded and not -SLACK <= float(maps.min()) <= float(maps.max()) <= 1 + SLACK:
        raise ValueError(f"values from {maps.min():.3g} to {maps.max():.3g} where 0 to 1 was expected")


def _made_by(arrays: Any) -> dict[str, Any]:
    if "made_by" not in arrays:
        return {}
    text = arrays["made_by"]
    if text.shape != () or text.dtype.kind != "U":
        raise ValueError("a record that is no text")
    record = parse_record(str(text))
    kind_of(record)
    return record


def _opened(path: Path) -> AbstractContextManager[Any]:
    missing = "no such CAM file; run generate_cams.py first"
    return opened_npz(path, missing, "a CAM file of generate_cams.py", "make it again")


def _unfit(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: {reason}; expected a CAM file of generate_cams.py, make it again")
