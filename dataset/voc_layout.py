"""Data in VOC layout: JPEGImages, Annotations, SegmentationClass, ImageSets. May import lxml, dataset and common.

Whatever is wrong with a file ends in a UserError that names it.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from common.errors import UserError
from common.files import check_id, need_dir, need_file
from dataset.spec import Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True)
class VocPaths:
    """Where the parts of a data set in VOC layout lie; `masks` is None when there is no ground truth to use."""

    images: Path
    annotations: Path
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


def read_split(path: Path) -> list[str]:
    """The ids of a split file, one a line (what follows an id on its line is not read), each once, in order.

    Raises UserError when the file is missing, not text, empty, or holds an id that leaves the image folder.
    """
    need_file(path, "--split_file", "a text file with one image id a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file; expected one image id a line") from error
    ids = dict.fromkeys(check_id(line.split()[0], path) for line in lines if line.split())
    if not ids:
        raise UserError(f"{path}: an empty split; expected one image id a line")
    return list(ids)


def read_labels(xml: Path, classes: Sequence[str]) -> tuple[int, ...]:
    """The distinct classes of an annotation's `object/name` entries, 0-based, in file order (clip_es section 1).

    The XML is read without entities, DTDs or network. Raises UserError for a missing or damaged file and for a name
    that is not among the classes.
    """
    if not xml.is_file():
        raise UserError(f"{xml}: no such annotation; expected a VOC XML file with the objects of the image")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        tree = etree.parse(str(xml), parser)
    except (etree.XMLSyntaxError, OSError) as error:
        raise UserError(
            f"{xml}: damaged XML ({' '.join(str(error).split())[:80]}); expected a VOC annotation"
        ) from error
    if getattr(tree.docinfo, "doctype", ""):
        raise UserError(f"{xml}: refused, it declares a DOCTYPE; expected a plain VOC annotation")
    names = dict.fromkeys((element.text or "").strip() for element in tree.iterfind("object/name"))
    return tuple(_class_index(name, classes, xml) for name in names)


def _class_index(name: str, classes: Sequence[str], source: Path) -> int:
    if name in classes:
        return list(classes).index(name)
    near = difflib.get_close_matches(name, classes, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(classes[:6])}, ..."
    raise UserError(f"{source}: unknown class {name!r}; {hint}")


def find_image(folder: Path, image_id: str) -> Path:
    """The image file of an id; raises UserError when there is none or it lies outside the folder (a link)."""
    for suffix in IMAGE_SUFFIXES:
        path = folder / f"{image_id}{suffix}"
        if path.is_file():
            return path
    raise UserError(f"{folder / image_id}.jpg: no such image; expected {', '.join(IMAGE_SUFFIXES[:3])} in --img_root")


def voc_samples(
    paths: VocPaths, classes: Sequence[str], ids: Sequence[str]
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The samples of a split, and (id, reason) of those whose image or annotation is missing or damaged."""
    need_dir(paths.annotations, "Annotations beside --img_root,", "one VOC XML file an image")
    samples, failures = [], []
    for image_id in ids:
        try:
            labels = read_labels(paths.annotations / f"{image_id}.xml", classes)
            samples.append(Sample(image_id, find_image(paths.images, image_id), labels))
        except UserError as error:
            failures.append((image_id, str(error)))
    return samples, failures
