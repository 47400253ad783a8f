"""CVAT for images 1.1: one XML file with an <image> for each image and a label on every shape and tag.

<image name="photos/a.jpg"><box label="dog" .../><tag label="indoor"/></image>
"""

from pathlib import Path

from common.errors import UserError
from common.files import open_regular
from dataset.label_source import LabelSource, LabelTable
from dataset.text_files import MAX_BYTES
from dataset.xml_files import read_xml

EXPECTED = "CVAT for images 1.1"
SHAPES = {"box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton", "tag"}
START = 4096  # characters or bytes among which the root stands


def recognises(source: LabelSource) -> bool:
    """Whether it is such a file, or a folder in which the first XML file is one."""
    if source.is_folder:
        return any(_is_cvat(path) for path in source.files(".xml")[:1])
    return "<annotations" in source.text[:START]


def _is_cvat(path: Path) -> bool:
    try:
        with open_regular(path) as stream:
            return b"<annotations" in stream.read(START)
    except OSError:
        return False


def read(source: LabelSource) -> LabelTable:
    """An image with a shape without label is entered as a problem. Raises UserError for a file of video tracks."""
    table = LabelTable(str(source.path))
    for path in source.files(".xml") if source.is_folder else [source.path]:
        root = read_xml(path, EXPECTED, MAX_BYTES)
        if root.tag != "annotations" or root.find("track") is not None:
            raise UserError(f"{path}: no images but {_what(root.tag)}; export it as `{EXPECTED}`")
        for number, image in enumerate(root.iterfind("image"), 1):
            where = f"image {number}" if path == source.path else f"{source.below(path)}, image {number}"
            name = image.get("name")
            if not name:
                raise UserError(f"{path}: image {number} has no name; expected {EXPECTED}")
            items = [item for item in image if item.tag in SHAPES or item.get("label") is not None]
            labels = [(item.get("label") or "").strip() for item in items]
            if all(labels):
                table.add(name, labels, where)
            else:
                missing = items[labels.index("")]
                table.problems.append((name, f"{path}: image {number} has a {missing.tag} without label; label it"))
    return table


def _what(tag: object) -> str:
    return "tracks of a video" if tag == "annotations" else f"<{tag}>"
