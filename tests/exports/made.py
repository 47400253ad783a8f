"""What the tests of export formats share: masks with holes, specks and 255s, exported by the product."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dataset.mask_png import confidence_text, write_mask
from exports.files import Exported, Item, Job, export
from exports.table import format_of

LABELS = ("background", "red car", "dog", "Ärmel & Co")
CONFIDENCE = {0: 0.9, 1: 0.75, 2: 0.5, 3: 0.25}
SIZE = (41, 58)
IDS = ("a", "sub/b.c", "with space")


def labels_of(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W) uint8 of soft blobs of values 0 to 3 with specks, holes, lines of one pixel, and a border of 255."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), 4) for _ in LABELS]
    labels = np.argmax(noise, axis=0).astype(np.uint8)
    for value in range(len(LABELS)):
        labels[rng.random(size) < 0.01] = value
    labels[5:16, 5:20] = 1
    labels[7:14, 7:18] = 2
    labels[9:12, 9:16] = 0
    labels[10, 12], labels[20, :] = 3, 3
    labels[-2:] = 255
    return labels


def items(root: Path, ids: tuple[str, ...] = IDS, suffix: str = "jpg", empty: bool = True) -> list[Item]:
    """Photos and masks that tell their confidence; the last mask is all background."""
    found = []
    for seed, image_id in enumerate(ids):
        files = root / "img" / f"{image_id}.{suffix}", root / "msk" / f"{image_id}.png"
        files[0].parent.mkdir(parents=True, exist_ok=True)
        photo = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(photo).save(files[0], quality=95)
        labels = labels_of(seed)
        if empty and image_id == ids[-1]:
            labels[:] = 0
        means = {value: CONFIDENCE[value] for value in np.unique(labels).tolist() if value in CONFIDENCE}
        write_mask(files[1], labels, made_by="{}", confidence=confidence_text(means))
        found.append((image_id, *files))
    return found


def exported(form: str, root: Path, **options: object) -> tuple[Path, list[Item], Exported]:
    """The three images as the training part, and one more to validate on."""
    pairs, unseen, out = items(root / "train"), items(root / "unseen", ("u",), empty=False), root / "out"
    job = Job(out, LABELS, validated=True, **options)  # type: ignore[arg-type]
    return out, pairs, export(format_of(form), job, {"train": pairs, "val": unseen})


def truth(pairs: list[Item]) -> dict[str, np.ndarray]:
    """The labels by id, as PIL reads them."""
    return {image_id: np.array(Image.open(mask)) for image_id, _, mask in pairs}


def without_255(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 255, 0, labels)


def near_border(mask: np.ndarray) -> np.ndarray:
    """Pixels within one pixel of the border of a mask, on either side."""
    square = np.ones((3, 3), np.uint8)
    return cv2.dilate(mask, square) != cv2.erode(mask, square)
