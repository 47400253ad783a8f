"""The CAM file, read and written without pickle. May import numpy, pipeline.maps, dataset and common.

Two forms, told apart by their arrays (shapes in pipeline/__init__.py):
  patch grid  keys (k,), cam and attn (k, h, w) float16, size (2,) = (H, W)             the default, small
  full size   keys (k,), highres and attn_highres (k, H, W) float16                     the reference's names
Both hold `made_by`, a JSON text that says which settings made the file. Every reader takes either form.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import atomic_write
from dataset.spec import DatasetSpec
from pipeline.maps import Cams, resize_maps

MAX_SIDE = 1 << 15  # OpenCV resizes to less than that
CAM_TYPES = ("attn_highres", "highres")  # refined and unrefined; the reference's names, for either form of file
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
    """Write one image's CAM file, whole or not at all. `made_by` must be JSON-serialisable."""
    arrays: dict[str, np.ndarray] = {"keys": cams.keys.astype(np.int64)}
    if full_size:
        arrays["highres"] = resize_maps(cams.cam, cams.size).astype(np.float16)
        arrays["attn_highres"] = resize_maps(cams.attn, cams.size).astype(np.float16)
    else:
        arrays |= {"cam": cams.cam.astype(np.float16), "attn": cams.attn.astype(np.float16)}
        arrays["size"] = np.array(cams.size, np.int32)
    arrays["made_by"] = np.array(json.dumps(dict(made_by), sort_keys=True))
    with atomic_write(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def load_cams(path: Path, cam_type: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One image's maps at full size.

    cam_type     "attn_highres" or "highres"
    num_classes  K of the data set; keys must lie below
    Returns keys (k,) int64 and maps (k, H, W) float32 in [0, 1].
    Raises UserError, naming the file, when it is missing, damaged or not a CAM file.
    """
    arrays = read_arrays(path)
    keys = arrays.get("keys")
    if keys is None or keys.ndim != 1 or not np.issubdtype(keys.dtype, np.integer):
        raise _unfit(path, "no class indices `keys`")
    if len(keys) and not 0 <= keys.min() <= keys.max() < num_classes:
        raise _unfit(path, f"class index {keys.max()} where the data set has {num_classes} classes; wrong --dataset?")
    return keys.astype(np.int64), _full_size(path, arrays, cam_type, len(keys))


def _full_size(path: Path, arrays: Mapping[str, np.ndarray], cam_type: str, count: int) -> np.ndarray:
    name = cam_type if cam_type in arrays else _PATCH_NAMES[cam_type]
    maps = arrays.get(name)
    if (
        maps is None
        or maps.ndim != 3
        or len(maps) != count
        or 0 in maps.shape[1:]
        or not np.issubdtype(maps.dtype, np.floating)
    ):
        raise _unfit(path, f"no maps `{name}` of shape ({count}, height, width)")
    if not np.isfinite(maps).all():
        raise _unfit(path, f"`{name}` holds values that are not finite")
    maps = maps.astype(np.float32)
    if name == cam_type:
        return maps
    size = arrays.get("size")
    if (
        size is None
        or size.shape != (2,)
        or not np.issubdtype(size.dtype, np.integer)
        or not 1 <= size.min() <= size.max() <= MAX_SIDE
    ):
        raise _unfit(path, "no image `size` (height, width)")
    return resize_maps(maps, (int(size[0]), int(size[1])))


def read_made_by(path: Path) -> dict[str, Any]:
    """The settings that made a CAM file; raises UserError when the file is damaged or does not say."""
    with _opened(path) as archive:
        return _made_by(archive)


def read_origin(path: Path) -> tuple[dict[str, Any], list[int]]:
    """The settings that made a CAM file, and its class indices; raises UserError when the file is damaged."""
    with _opened(path) as archive:
        return _made_by(archive), archive["keys"].ravel().tolist()


def _made_by(archive: Any) -> dict[str, Any]:
    return json.loads(str(archive["made_by"])) if "made_by" in archive.files else {}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file; pickled objects are refused."""
    with _opened(path) as archive:
        return {name: archive[name] for name in archive.files}


# What zipfile, zlib and numpy raise for a file with wrong bytes.
_DAMAGE = (ValueError, OSError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


class _opened:
    """An npz file whose every way of being damaged ends in one UserError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        try:
            self._archive = np.load(self.path, allow_pickle=False)
        except FileNotFoundError as error:
            raise UserError(f"{self.path}: no such CAM file; run generate_cams.py first") from error
        except _DAMAGE as error:
            raise _unfit(self.path, "damaged or not an npz file") from error
        if not isinstance(self._archive, np.lib.npyio.NpzFile):
            raise _unfit(self.path, "a single array, not an npz file")
        return self._archive

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._archive.close()
        if isinstance(error, _DAMAGE):
            raise _unfit(self.path, "damaged, or holds something else than plain arrays") from error


def _unfit(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; expected a CAM file of generate_cams.py, make it again")
