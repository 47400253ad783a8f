"""The folder VOC2012, and SBD's `.mat` segmentations as the masks of SegmentationClassAug.

SBD (Hariharan et al., ICCV 2011) labels 11,355 images of VOC; where VOC has a mask of its own, that one is taken.
"""

from pathlib import Path

import numpy as np

from common.errors import UserError
from dataset.annotations import read_annotation
from dataset.ids import split_id
from dataset.mask_png import read_mask
from dataset.spec import IGNORE_INDEX, RawForm
from voc12.spec import SPEC

SPLIT_SIZES = {"train": 1_464, "val": 1_449, "trainval": 2_913, "train_aug": 10_582}
ARCHIVE = "VOCtrainval_11-May-2012.tar"
FORM = RawForm(
    {value: value for value in (*range(SPEC.num_labels), IGNORE_INDEX)}, ".mat", variable="GTcls.Segmentation"
)


def check_root(root: Path) -> Path:
    """The folder VOC2012 itself; raises UserError, naming it where it lies deeper."""
    if (root / "ImageSets" / "Segmentation").is_dir() or (root / "SegmentationClass").is_dir():
        return root
    for deeper in (root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if deeper.is_dir():
            raise UserError(f"--root {root}: not VOC2012 itself; expected --root {deeper}")
    reason = "no such folder" if not root.is_dir() else "neither ImageSets/Segmentation nor SegmentationClass in it"
    raise UserError(f"--root {root}: {reason}; expected the folder VOC2012 of {ARCHIVE}")


def mask_ids(folder: Path) -> list[str]:
    """The ids of a folder of masks, sorted; none when there is no such folder."""
    return sorted(split_id(path.stem, folder) for path in folder.glob("*.png") if not path.name.startswith("."))


def find_sbd(folder: Path) -> Path | None:
    """The folder `cls` of SBD's .mat files in or below an unpacked SBD, or None."""
    for candidate in (folder / "cls", folder / "dataset" / "cls", folder):
        if next(candidate.glob("*.mat"), None) is not None:
            return candidate
    return None


def sources(mats: Path, official: Path) -> dict[str, Path]:
    """The source of each mask of SegmentationClassAug by id: VOC's own mask, or else SBD's file."""
    paths = {split_id(path.stem, path.parent): path for path in (*mats.glob("*.mat"), *official.glob("*.png"))}
    return dict(sorted(paths.items()))


def read_source(path: Path) -> np.ndarray:
    """(H, W) uint8: mask values of a PNG of VOC or a .mat file of SBD. Raises UserError, naming the file."""
    return read_mask(path) if path.suffix == ".png" else read_annotation(FORM, path)
