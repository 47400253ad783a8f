"""SBD's `.mat` segmentations as the masks of SegmentationClassAug.

SBD (Hariharan et al., ICCV 2011) labels 11,355 images of VOC; where VOC has a mask of its own, that one is taken.
"""

from pathlib import Path

import numpy as np

from dataset.annotations import read_annotation
from dataset.ids import split_id
from dataset.mask_png import read_mask
from dataset.spec import IGNORE_INDEX, RawForm
from voc12.spec import SPEC

FORM = RawForm(
    {value: value for value in (*range(SPEC.num_labels), IGNORE_INDEX)}, ".mat", variable="GTcls.Segmentation"
)


def sources(mats: Path, official: Path) -> dict[str, Path]:
    """What each mask of SegmentationClassAug is made from, by id: VOC's own mask, or else SBD's file."""
    found = {split_id(path.stem, path.parent): path for path in (*mats.glob("*.mat"), *official.glob("*.png"))}
    return dict(sorted(found.items()))


def read_source(path: Path) -> np.ndarray:
    """(H, W) uint8: mask values of a PNG of VOC or a .mat file of SBD. Raises UserError, naming the file."""
    return read_mask(path) if path.suffix == ".png" else read_annotation(FORM, path)
