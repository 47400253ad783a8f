"""VOC's split files, and those that are missing worked out from the others."""

from pathlib import Path

from common.errors import UserError
from dataset.ids import split_id
from dataset.voc_layout import read_split

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


def read_splits(root: Path) -> dict[str, list[str]]:
    """The split files that are there."""
    paths = {name: root / SEGMENTATION / f"{name}.txt" for name in EXPECTED}
    return {name: read_split(path) for name, path in paths.items() if path.is_file()}


def derived_splits(there: dict[str, list[str]], masks: list[str], aug_masks: list[str]) -> dict[str, list[str]]:
    """The missing splits that follow from those `there`.

    masks, aug_masks  ids of SegmentationClass, which are train and val, and of SegmentationClassAug
    """
    known = dict(there)
    both = there.get("trainval", masks)
    for name, other in (("train", "val"), ("val", "train")):
        if name not in known and other in there and both:
            known[name] = _without(both, there[other])
    if "trainval" not in known and {"train", "val"} <= set(known):
        known["trainval"] = sorted({*known["train"], *known["val"]})
    if "train_aug" not in known and "val" in known and aug_masks:
        known["train_aug"] = _without(aug_masks, known["val"])
    return {name: ids for name, ids in known.items() if name not in there and ids}


def _without(ids: list[str], others: list[str]) -> list[str]:
    return sorted(set(ids) - set(others))
