"""COCO's instances file as the 80 classes: category ids to class indices, labels by image.

Category ids run from 1 to 90 with gaps; in ascending order they are the classes 0 to 79.
"""

from pathlib import Path

from coco14.spec import CLASSES, OFFICIAL_NAMES
from common.errors import UserError
from dataset.coco_json import CocoFile
from dataset.label_table import image_id
from dataset.text_files import in_short, shown


def class_indices(coco: CocoFile) -> dict[int, int]:
    """0-based class index by category id.

    Raises UserError when the categories are not COCO's 80: a name is compared with the class at its place.
    """
    if len(coco.categories) != len(CLASSES):
        raise UserError(
            f"{coco.path}: {len(coco.categories)} categories; expected COCO's {len(CLASSES)} "
            "(for other data use --dataset folder with --labels and this file)"
        )
    for index, category in enumerate(sorted(coco.categories)):
        name = coco.categories[category]
        if OFFICIAL_NAMES.get(name, name) != CLASSES[index]:
            said = f"category {category} is {shown(name)}; expected COCO's {CLASSES[index]!r} there"
            raise UserError(f"{coco.path}: {said}")
    return {category: index for index, category in enumerate(sorted(coco.categories))}


def labels_by_id(coco: CocoFile, indices: dict[int, int]) -> dict[str, tuple[int, ...]]:
    """The classes of every image with at least one annotation, ascending, by image id (file name without suffix).

    Ascending as in the reference's split file: `COCO_train2014_000000000009 45 49 50`.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for image in coco.images:
        present = {indices[item["category_id"]] for item in coco.annotations[image.id]}
        key = file_id(coco.path, image.file_name)
        if key in labels:
            raise UserError(in_short(f"{coco.path}: two images are called {key}; expected file names that differ"))
        if present:
            labels[key] = tuple(sorted(present))
    return labels


def file_id(path: Path, file_name: str) -> str:
    """The id of a file name; raises UserError when it leaves the image folder or would break a line of the split."""
    key = image_id(file_name, str(path))
    if len(key.split()) != 1:
        raise UserError(f"{path}: image name {shown(file_name)} holds spaces, which split files cannot")
    return key
