"""SBD's `.mat` segmentations as the masks of SegmentationClassAug.

SBD (Hariharan et al., ICCV 2011) labels 11,355 images of VOC; where VOC has a mask of its own, that one is taken.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.outcome import Outcome
from dataset.mask_png import read_mask, write_mask
from dataset.mat_file import struct_field
from dataset.spec import IGNORE_INDEX
from dataset.text_files import read_bytes
from voc12.spec import CLASSES
from voc12.splits import id_of

MAX_BYTES = 16 << 20  # SBD's files have a few KiB, and become a few hundred


def sources(mats: Path, official: Path) -> dict[str, Path]:
    """What each mask of SegmentationClassAug is made from, by id: VOC's own mask, or else SBD's file."""
    found = {id_of(path): path for path in (*mats.glob("*.mat"), *official.glob("*.png"))}
    return dict(sorted(found.items()))


def convert(found: Mapping[str, Path], out: Path) -> Iterator[Outcome]:
    """Write the masks that are missing in `out`; one outcome an id."""
    for key, source in found.items():
        target = out / f"{key}.png"
        if target.is_file():
            yield Outcome(key, "kept")
            continue
        try:
            write_mask(target, read_mask(source) if source.suffix == ".png" else read_sbd(source))
        except UserError as error:
            yield Outcome(key, "failed", str(error))
            continue
        yield Outcome(key, "made")


def read_sbd(path: Path) -> np.ndarray:
    """The labels of one .mat file, (H, W) uint8: field `Segmentation` of the struct `GTcls`.

    Raises UserError, naming the file, when it is damaged or holds something else.
    """
    data = read_bytes(path, "one of SBD's files", MAX_BYTES)
    try:
        labels = struct_field(data, "GTcls", "Segmentation", MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path}: not a readable .mat file with GTcls.Segmentation; expected one of SBD's") from error
    allowed = labels.ndim == 2 and labels.size and np.issubdtype(labels.dtype, np.integer)
    if not allowed or not ((labels >= 0) & (labels <= len(CLASSES)) | (labels == IGNORE_INDEX)).all():
        raise UserError(f"{path}: GTcls.Segmentation holds no labels 0..{len(CLASSES)}; expected one of SBD's files")
    return labels.astype(np.uint8)
