"""Step 4: from probabilities to the PNG masks that a segmentation network trains on (clip_es section 6).

May import numpy, PIL and common.
"""

from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from common.errors import UserError
from common.files import atomic_write
from dataset.spec import IGNORE_INDEX

CONFIDENCE = 0.95  # below, a pixel is not trained on (paper, section 3.3, confidence-guided loss)


def with_background(maps: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """(k, H, W) in [0, 1] to (k+1, H, W) with the background score (1 - max_c cam)^exponent first (section 5)."""
    highest = maps.max(axis=0) if len(maps) else np.zeros(maps.shape[1:], maps.dtype)
    return np.concatenate([((1 - highest) ** exponent)[None], maps])


def labels_of(scores: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(k+1, H, W) scores, background first, to (H, W) uint8 labels: class index + 1, background 0."""
    values = np.concatenate([[0], np.asarray(keys) + 1]).astype(np.uint8)
    return values[scores.argmax(axis=0)]


def confident(labels: np.ndarray, probabilities: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """The labels, with 255 where the highest of the (k+1, H, W) probabilities lies below `confidence`."""
    return np.where(probabilities.max(axis=0) < confidence, np.uint8(IGNORE_INDEX), labels)


def voc_palette() -> np.ndarray:
    """(256, 3) uint8 RGB: the colours of PASCAL VOC's masks, by spreading the bits of the label."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def write_mask(path: Path, mask: np.ndarray, palette: bool = False, made_by: str = "") -> None:
    """Write an (H, W) uint8 mask as PNG, whole or not at all.

    Mode L, which trainers read as labels whatever they read it with; with `palette` mode P in VOC's colours, for
    people. `made_by` goes into a text chunk of the same name.
    """
    image = Image.fromarray(mask)
    if palette:
        image = image.convert("P")
        image.putpalette(voc_palette().tobytes())
    with atomic_write(path) as stream:
        image.save(stream, "PNG", optimize=False, pnginfo=made_here(made_by))


def made_here(made_by: str = "") -> PngImagePlugin.PngInfo:
    """The text chunk by which this project knows its own PNG files, among a user's photos too."""
    info = PngImagePlugin.PngInfo()
    info.add_text("made_by", made_by)
    return info


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 labels of a PNG of mode L or P, whichever way it is coloured.

    Raises UserError, naming the file, when it is missing, damaged, or a colour picture rather than labels.
    """
    image = _opened(path)
    if image.mode not in ("L", "P", "1"):
        raise UserError(
            f"{path}: a {image.mode} picture, not labels; expected a single-channel PNG with one class value a pixel"
        )
    return np.array(image, np.uint8)


def mask_made_by(path: Path) -> str:
    """What `write_mask` recorded, or an empty text."""
    return str(_opened(path).info.get("made_by", ""))


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such mask") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable mask (truncated or another format); expected a PNG") from error
