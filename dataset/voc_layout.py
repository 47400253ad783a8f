"""Data in VOC layout: JPEGImages, Annotations, SegmentationClass, ImageSets.

Errors in a file are UserErrors that name it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import is_file, need_dir
from dataset.ids import IMAGE_SUFFIXES
from dataset.names import hint, one_form
from dataset.readers.voc_xml import read_names
from dataset.spec import Sample
from dataset.text_files import shown


@dataclass(frozen=True)
class VocPaths:
    """The paths of a data set. `split` is the source of the ids.

    `masks` is None when there is no ground truth to use, `annotations` when the labels are not in VOC's XML.
    """

    images: Path
    annotations: Path | None
    split: Path
    masks: Path | None


def voc_paths(img_root: Path, split_file: Path | None = None, gt_root: Path | None = None) -> VocPaths:
    """Fill in what was not given from the layout: the other folders lie beside the image folder.

    img_root may be the folder of images or the one above it (VOC2012 itself).
    """
    need_dir(img_root, "--img_root", "the folder of images (JPEGImages)")
    if (img_root / "JPEGImages").is_dir():
        img_root = img_root / "JPEGImages"
    root = img_root.parent
    split = split_file or root / "ImageSets" / "Segmentation" / "train.txt"
    masks = gt_root or root / "SegmentationClass"
    return VocPaths(img_root, root / "Annotations", split, masks if gt_root or masks.is_dir() else None)


def read_labels(xml: Path, classes: Sequence[str]) -> tuple[int, ...]:
    """The distinct classes of an annotation's `object/name` entries, 0-based, in file order.

    Raises UserError for a missing or damaged file and for a name that is not among the classes.
    """
    indices = {one_form(name): index for index, name in enumerate(classes)}
    names = read_names(xml)
    for name in names:
        if name not in indices:
            raise UserError(f"{xml}: unknown class {shown(name)}; {hint(name, classes)}")
    return tuple(indices[name] for name in names)


def find_image(folder: Path, image_id: str) -> Path:
    """The image file of an id; raises UserError when there is none or it lies outside the folder (a link)."""
    path = image_file(folder, image_id)
    if path is None:
        raise UserError(
            f"{folder / image_id}.jpg: no such image; expected it in --img_root, as .jpg, .png, .webp, .tif or .bmp"
        )
    return inside(path, folder)


def image_file(folder: Path, image_id: str) -> Path | None:
    """The file an id stands for, or None."""
    candidates = (folder / f"{image_id}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next((path for path in candidates if is_file(path)), None)


def inside(path: Path, folder: Path) -> Path:
    """The path itself, if it lies in the folder once links are followed; otherwise a UserError."""
    # os.path.realpath, because Path.resolve() raises for links in a circle (Python before 3.13)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path}: a link that leads out of {folder}; copy the image there")
    return path


def voc_samples(
    paths: VocPaths, classes: Sequence[str], ids: Sequence[str]
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The samples of a split, and (id, reason) of those whose image or annotation is missing or damaged."""
    assert paths.annotations is not None
    need_dir(paths.annotations, "Annotations beside --img_root,", "one VOC XML file an image")
    samples, failures = [], []
    for image_id in ids:
        try:
            labels = read_labels(paths.annotations / f"{image_id}.xml", classes)
            samples.append(Sample(image_id, find_image(paths.images, image_id), labels))
        except UserError as error:
            failures.append((image_id, str(error)))
    return samples, failures
