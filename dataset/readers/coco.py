"""COCO's instances file: images, annotations, categories, checked before use.

Segmentations are not looked at here; coco14/masks.py draws them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataset.label_source import MAX_JSON, LabelSource, LabelTable
from dataset.label_values import LABEL_FIELDS, plain_field
from dataset.text_files import parse_json, read_text, shown

EXPECTED = "a COCO instances file (images, annotations, categories)"
PARTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images`; (0, 0) for a size that is not given."""

    id: int
    file_name: str
    size: tuple[int, int]  # height, width


@dataclass(frozen=True)
class CocoFile:
    """What the file holds; `annotations` by image id, each a dictionary whose `category_id` is known."""

    path: Path
    images: list[CocoImage]
    annotations: dict[int, list[dict[str, Any]]]
    categories: dict[int, str]


def read_coco(path: Path) -> CocoFile:
    """Read and check an instances file; raises UserError that names the file and the entry that is wrong."""
    return parse_coco(path, parse_json(path, read_text(path, EXPECTED, MAX_JSON), EXPECTED))


def recognises(source: LabelSource) -> bool:
    """Whether it is JSON with one of the parts of an instances file."""
    return isinstance(source.json, dict) and sum(part in source.json for part in PARTS) > 1


def read(source: LabelSource) -> LabelTable:
    """The categories of every image's annotations, in the order of the file."""
    coco, table = parse_coco(source.path, source.json), LabelTable(str(source.path))
    for image in coco.images:
        names = [coco.categories[item["category_id"]] for item in coco.annotations[image.id]]
        table.add(image.file_name, names, f"image id {image.id}")
    return table


def parse_coco(path: Path, content: Any) -> CocoFile:
    """The checked form of parsed JSON; raises UserError as `read_coco` does."""
    for part in PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f"{path}: no list `{part}`; expected {EXPECTED}")
    categories = {
        _integer(path, "categories", index, entry, "id"): _string(path, "categories", index, entry, "name")
        for index, entry in enumerate(content["categories"])
    }
    images = [_image(path, index, entry) for index, entry in enumerate(content["images"])]
    grouped: dict[int, list[dict[str, Any]]] = {image.id: [] for image in images}
    if len(categories) < len(content["categories"]) or len(grouped) < len(images):
        raise UserError(f"{path}: two images or two categories have the same id; expected {EXPECTED}")
    for index, entry in enumerate(content["annotations"]):
        image = _integer(path, "annotations", index, entry, "image_id")
        category = _integer(path, "annotations", index, entry, "category_id")
        entry["image_id"], entry["category_id"] = image, category
        if image not in grouped or category not in categories:
            missing = f"image {image}" if image not in grouped else f"category {category}"
            raise UserError(f"{path}: annotations[{index}] is of {missing}, which the file does not hold")
        grouped[image].append(entry)
    return CocoFile(path, images, grouped, categories)


def _image(path: Path, index: int, entry: Any) -> CocoImage:
    """LVIS names its images by their address alone, of which the last folder and the file count."""
    image = _integer(path, "images", index, entry, "id")
    if "file_name" not in entry and isinstance(entry.get("coco_url"), str):
        entry = {**entry, "file_name": "/".join(entry["coco_url"].split("/")[-2:])}
    name = _string(path, "images", index, entry, "file_name")
    if field := next((key for key in entry if plain_field(key) in LABEL_FIELDS and entry[key]), None):
        raise UserError(
            f"{path}: images[{index}] has a field {shown(field)}, which looks like labels; put them in annotations"
        )
    height, width = (_integer(path, "images", index, entry, key) if key in entry else 0 for key in ("height", "width"))
    return CocoImage(image, name, (height, width))


def _integer(path: Path, part: str, index: int, entry: Any, key: str) -> int:
    """A whole number, which pandas writes as 7.0 and others as "7"."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if type(value) is not int or abs(value) >= 1 << 63:
        raise UserError(f"{path}: {part}[{index}] has no whole number `{key}`; expected {EXPECTED}")
    return value


def _string(path: Path, part: str, index: int, entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{path}: {part}[{index}] has no text `{key}`; expected {EXPECTED}")
    return value
