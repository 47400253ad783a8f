"""The mask PNG: one class value a pixel, and how it was made."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from common.errors import UserError
from common.files import atomic_write
from common.images import opened
from dataset.mask_values import MaskValues
from dataset.palettes import voc_palette
from dataset.spec import IGNORE_INDEX

FORMATS = ("PNG", "BMP", "TIFF")  # without loss, and with the values that were written

MOST_CONFIDENCE = 1 << 14  # characters of the record


def write_mask(
    path: Path, mask: np.ndarray, palette: bool = False, made_by: str = "", score: str = "", confidence: str = ""
) -> None:
    """Write an (H, W) uint8 mask as PNG, whole or not at all.

    Mode L, which trainers read as labels whatever they read it with; with `palette` mode P in VOC's colours, for
    people. `made_by`, and `score` and `confidence` where there are any, go into text chunks of these names.
    Raises UserError where a picture lies that this project did not make: --overwrite is not meant for people's photos.
    """
    _check_replaceable(path)
    image = Image.fromarray(mask)
    if palette:
        image = image.convert("P")
        image.putpalette(voc_palette().tobytes())
    with atomic_write(path) as stream:
        image.save(stream, "PNG", optimize=False, pnginfo=made_here(made_by, score, confidence))


def _check_replaceable(path: Path) -> None:
    """Raise UserError for a picture of any format that this project did not make; links are replaced anyway."""
    try:
        with opened(path) as image:
            replaceable = path.is_symlink() or "made_by" in image.info
    except UserError:  # no picture, or a damaged one
        return
    if not replaceable:
        reason = "not written, a picture lies there that this project did not make"
        raise UserError(f"{path}: {reason}; choose another folder, or remove it")


def is_made_here(path: Path) -> bool:
    """Whether a PNG has the mark of `made_here` near its start; much quicker than to open it as an image."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return re.search(rb"[tiz](EXt|TXt)made_by\0", stream.read(4096)) is not None
    except OSError:  # the stage that reads the picture reports it
        return False


def made_here(made_by: str = "", score: str = "", confidence: str = "") -> PngImagePlugin.PngInfo:
    """The text chunks of this project's PNG files; the first one marks them as such."""
    info = PngImagePlugin.PngInfo()
    info.add_text("made_by", made_by)
    for name, text in (("score", score), ("confidence", confidence)):
        if text:
            info.add_text(name, text)
    return info


def read_mask(path: Path, values: MaskValues | None = None) -> np.ndarray:
    """(H, W) uint8 labels of a PNG (also BMP, TIFF) of mode L or P, whichever way it is coloured.

    values  what the values or colours of masks stand for that this project did not write
    Colour pictures of greys alone count as grey. Raises UserError, naming the file, when it is missing, damaged, or a
    colour picture rather than labels.
    """
    with opened(path, FORMATS, "mask") as image:
        if values is not None and "made_by" not in image.info:
            return values.apply(_raw(image, bool(values.grey)), str(path))
        raw = _raw(image, True)
        if raw.ndim == 3:
            expected = "expected a single-channel PNG with one class value a pixel"
            remedy = "--mask_values maps colours to classes, also by the name of a palette"
            raise UserError(f"{path}: a {image.mode} picture, not labels; {expected}; {remedy}")
        if raw.size and raw.max() > IGNORE_INDEX:
            raise UserError(f"{path}: holds the value {raw.max()}; --mask_values maps values to classes")
        return raw.astype(np.uint8)


def _raw(image: Image.Image, indices: bool) -> np.ndarray:
    """Grey values or indices (H, W) as they are, or RGB (H, W, 3) of a colour picture.

    indices  take the indices of mode P; else its colours
    """
    if image.mode == "1":
        return np.array(image, np.uint8)
    if image.mode in ("L", "I", "I;16", "I;16B") or (image.mode == "P" and indices):
        return np.array(image)
    if image.mode == "LA":
        return np.array(image.getchannel(0))
    rgb = np.array(image.convert("RGB"))
    grey = (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all()
    return np.ascontiguousarray(rgb[..., 0]) if grey and indices else rgb


def mask_made_by(path: Path) -> str:
    """What `write_mask` recorded, or an empty text.

    Raises UserError when the mask is missing or damaged: the checksums of all parts are compared, since PIL decodes an
    image whose last bytes are cut off or changed.
    """
    with opened(path, ("PNG",), "mask") as image:
        record = image.info.get("made_by", "")
        image.verify()
    return str(record)


def mask_score(path: Path) -> str:
    """The `score` of `write_mask`, or an empty text. Raises UserError when the mask is missing or no picture."""
    with opened(path, ("PNG",), "mask") as image:
        return str(image.info.get("score", ""))


def confidence_text(by_value: Mapping[int, float]) -> str:
    """The mean confidence of each mask value, in [0, 1], as the text that lies in a mask: three decimals."""
    return json.dumps({str(value): round(float(mean), 3) for value, mean in sorted(by_value.items())})


def mask_confidence(path: Path) -> dict[int, float]:
    """The mean confidence by mask value that `write_mask` recorded; empty where there is none, as in others' masks.

    Raises UserError when the mask is missing or no picture.
    """
    with opened(path, ("PNG",), "mask") as image:
        text = str(image.info.get("confidence", ""))[:MOST_CONFIDENCE]
    try:
        return {int(value): min(1.0, max(0.0, float(mean))) for value, mean in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError, RecursionError):  # another program's chunk of that name
        return {}
