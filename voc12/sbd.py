"""SBD's `.mat` segmentations as the masks of SegmentationClassAug. May import numpy, scipy, pipeline.masks and common.

SBD (Hariharan et al., ICCV 2011) labels 11,355 images of VOC; where VOC has a mask of its own, that one is taken.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy.io import loadmat  # type: ignore[import-untyped]
from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

from common.console import Outcome
from common.errors import UserError
from dataset.spec import IGNORE_INDEX
from pipeline.masks import read_mask, write_mask
from voc12.spec import CLASSES

MAX_BYTES = 64 << 20  # SBD's files have a few KiB
_DAMAGE = (MatReadError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, OSError, EOFError)


def sources(mats: Path, official: Path) -> dict[str, Path]:
    """What each mask of SegmentationClassAug is made from, by id: VOC's own mask, or else SBD's file."""
    found = {path.stem: path for path in mats.glob("*.mat")} | {path.stem: path for path in official.glob("*.png")}
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
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES >> 20} MiB; expected one of SBD's files")
    try:
        labels = np.asarray(loadmat(str(path), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    except (*_DAMAGE, zlib.error, struct.error) as error:
        raise UserError(f"{path}: not a readable .mat file with GTcls.Segmentation; expected one of SBD's") from error
    allowed = labels.ndim == 2 and labels.size and np.issubdtype(labels.dtype, np.integer)
    if not allowed or not ((labels >= 0) & (labels <= len(CLASSES)) | (labels == IGNORE_INDEX)).all():
        raise UserError(f"{path}: GTcls.Segmentation holds no labels 0..{len(CLASSES)}; expected one of SBD's files")
    return labels.astype(np.uint8)
