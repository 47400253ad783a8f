"""The folder VOC2012: how it is recognised, and how many ids its split files have."""

from pathlib import Path

from common.errors import UserError
from dataset.ids import split_id

# Number of ids of each split.
EXPECTED = {"train": 1_464, "val": 1_449, "trainval": 2_913, "train_aug": 10_582}
EXPECTED_AUG_MASKS = 12_031
ARCHIVE = "VOCtrainval_11-May-2012.tar"
SEGMENTATION = Path("ImageSets") / "Segmentation"


def check_root(root: Path) -> Path:
    """The folder VOC2012 itself; raises UserError, naming it where it lies deeper."""
    if (root / SEGMENTATION).is_dir() or (root / "SegmentationClass").is_dir():
        return root
    for deeper in (root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if deeper.is_dir():
            raise UserError(f"--root {root}: not VOC2012 itself; expected --root {deeper}")
    reason = "no such folder" if not root.is_dir() else f"neither {SEGMENTATION} nor SegmentationClass in it"
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
