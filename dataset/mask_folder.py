"""A folder of masks as a user has it: names of files, what values stand for, and whether anything is shown."""

import hashlib
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import is_file, need_any
from dataset.mask_png import is_made_here, read_mask
from dataset.mask_values import MaskValues
from dataset.spec import IGNORE_INDEX, DatasetSpec

SUFFIX = ".png"


@dataclass(frozen=True)
class MaskFolder:
    """Masks by id.

    suffix  behind an image's id in the name of its mask; a mask `<id>.png` is found too
    values  what the values of masks stand for that this project did not write; None: they are mask values
    """

    folder: Path
    suffix: str = SUFFIX
    values: MaskValues | None = None

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def how(self) -> str:
        """What its values stand for, for records; empty: mask values."""
        return hashlib.sha256(repr(self.values).encode()).hexdigest()[:8] if self.values else ""

    def path(self, image_id: str) -> Path:
        """The mask of an image."""
        path, usual = self.folder / f"{image_id}{self.suffix}", self.folder / f"{image_id}{SUFFIX}"
        return usual if not is_file(path) and is_file(usual) else path

    def read(self, image_id: str) -> np.ndarray:
        """(H, W) uint8. Raises UserError, naming the file, where it is missing or cannot be read."""
        path = self.path(image_id)
        if not is_file(path):
            raise UserError(f"{path}: no such mask{self.suggestion(image_id)}")
        return read_mask(path, self.values)

    def suggestion(self, image_id: str) -> str:
        """What to do about a missing mask, by the files that are there."""
        name = image_id.rpartition("/")[2]
        folder = (self.folder / image_id).parent
        others = sorted(path.name for path in folder.glob("*") if path.name.startswith(name)) if folder.is_dir() else []
        endings = [other[len(name) :] for other in others if other[len(name) :][:1] in ("_", "-", ".", " ")]
        endings = [ending for ending in endings if ending.lower().endswith((".png", ".bmp", ".tif", ".tiff"))]
        return f"; --mask_suffix {endings[0]} finds {name}{endings[0]}" if endings else ""


Masks = Path | MaskFolder  # a folder of masks `<id>.png` that hold mask values, or another


def mask_folder(masks: Masks) -> MaskFolder:
    """The masks, whichever way they are given."""
    return masks if isinstance(masks, MaskFolder) else MaskFolder(masks)


def check_masks(
    masks: Masks, ids: Iterable[str], spec: DatasetSpec, what: str, wanted: Collection[int] = (), sure: bool = True
) -> None:
    """Raise UserError, with the remedy, for masks that show no class, or not the classes that images are labelled with.

    So too where not one image has a mask.
    what    the option that gives the masks
    wanted  classes that images are labelled with
    sure    whether people labelled them; a class that is missing is a warning otherwise
    Masks that this project wrote may lack classes: their values are known. Masks that cannot be read are passed over.
    Reading ends as soon as all is there.
    """
    folder, classes, ids = mask_folder(masks), range(int(spec.has_background), spec.num_labels), list(ids)
    holds = f"a mask PNG an image, named like it{folder.suggestion(ids[0]) if ids else ''}"
    need_any(folder.folder, map(folder.path, ids), what, holds)
    missing, values, ours = {classes[index] for index in wanted}, set[int](), False
    for image_id in ids:
        try:
            found = set(np.unique(folder.read(image_id)).tolist())
        except UserError:
            continue
        values, missing = values | found, missing - found
        ours = ours or is_made_here(folder.path(image_id))
        if not missing and values & set(classes):
            return
    names = ", ".join(spec.label_names[value] for value in sorted(missing)[:4])
    if values and not values & set(classes):
        _refuse_empty(folder, spec, what, values, names, ours)
    elif values and not ours:
        seen = ", ".join(map(str, sorted(values)[:8]))
        told = f"{what} {folder}: no mask shows {names}, which images are labelled with (the masks hold {seen})"
        if sure:
            remedy = "--mask_values says which value is which class; leave --labels out where the labels are wrong"
            raise UserError(f"{told}; {remedy}")
        print(f"warning: {told}", file=sys.stderr)


def _refuse_empty(folder: MaskFolder, spec: DatasetSpec, what: str, values: set[int], names: str, ours: bool) -> None:
    """Masks without a single pixel of a class. Images may all be known to show none, unless a value says otherwise."""
    if ours and (names or IGNORE_INDEX in values):
        told = "the masks show no class, every pixel is background or unsure (255)"
        raise UserError(f"{what} {folder}: {told}; look at the maps, or make masks with a lower --confidence")
    name = names if names in spec.classes else spec.classes[0] if len(spec.classes) == 1 else "CLASS"
    example = f"0,255=background,{name}" if spec.has_background else f"255={name}"
    if values == {IGNORE_INDEX}:
        raise UserError(f"{what} {folder}: every mask is 255 all over, which counts as unlabelled: nothing to learn "
                        "from or score; --mask_values says what 255 and the other values stand for")  # fmt: skip
    if IGNORE_INDEX in values and folder.values is None:
        raise UserError(f"{what} {folder}: the masks hold 0 and 255 only, and 255 counts as unlabelled; where it is a "
                        f"class, pass --mask_values {example}")  # fmt: skip
    if names:
        raise UserError(f"{what} {folder}: the masks show the background alone, and images are labelled with {names}; "
                        f"--mask_values says which value is which class, as in {example}")  # fmt: skip
