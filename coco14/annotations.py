"""COCO's instances file as the 80 classes: category ids to class indices, labels and mask of an image.

Category ids run from 1 to 90 with gaps; in ascending order they are the classes 0 to 79.
"""

from coco14.spec import CLASSES, OFFICIAL_NAMES
from common.errors import UserError
from dataset.ids import reference, split_id, without_suffix
from dataset.readers.coco import CocoFile, CocoImage
from dataset.text_files import shown


def class_indices(coco: CocoFile) -> dict[int, int]:
    """0-based class index by category id.

    Raises UserError when the categories are not COCO's 80: a name is compared with the class at its place.
    """
    if len(coco.categories) != len(CLASSES):
        raise UserError(
            f"{coco.path}: {len(coco.categories)} categories; expected COCO's {len(CLASSES)} "
            "(for other data use --dataset folder with --labels and this file)"
        )
    indices = {category: index for index, category in enumerate(sorted(coco.categories))}
    for category, index in indices.items():
        name = coco.categories[category]
        if OFFICIAL_NAMES.get(name, name) != CLASSES[index]:
            raise UserError(f"{coco.path}: category {category} is {shown(name)}; expected COCO's {CLASSES[index]!r}")
    return indices


def images_by_id(coco: CocoFile) -> dict[str, CocoImage]:
    """The images with at least one annotation, by id (file name without suffix).

    Raises UserError when two images have one id, or an id would leave the image folder or break a line of a split file.
    """
    where = str(coco.path)
    keys = [split_id(without_suffix(reference(image.file_name, where)), where) for image in coco.images]
    if len(set(keys)) < len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise UserError(f"{coco.path}: two images are called {twice}; expected file names that differ")
    return {key: image for key, image in zip(keys, coco.images) if coco.annotations[image.id]}


def labels_of(coco: CocoFile, image: CocoImage, indices: dict[int, int]) -> tuple[int, ...]:
    """The classes of an image, ascending, as in CLIP-ES's split file: `COCO_train2014_000000000009 45 49 50`."""
    return tuple(sorted({indices[item["category_id"]] for item in coco.annotations[image.id]}))
