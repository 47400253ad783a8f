"""The export formats: to add one, a file with a FORMAT, a line here, and a test that reads it as its tool does."""

from typing import TYPE_CHECKING

from common.package import module

if TYPE_CHECKING:
    from exports.files import Format

FORMATS = {  # name: module, imported when it is asked for, so that --help is quick
    "coco": "exports.coco",
    "cvat": "exports.cvat",
    "datumaro": "exports.datumaro",
    "deeplab-pytorch": "exports.deeplab_pytorch",
    "detectron2": "exports.detectron2",
    "fiftyone": "exports.fiftyone",
    "hf": "exports.hf",
    "label-studio": "exports.label_studio",
    "labelme": "exports.labelme",
    "mmsegmentation": "exports.mmsegmentation",
    "sem-seg-json": "exports.sem_seg_json",
    "ultralytics": "exports.ultralytics",
    "voc": "exports.voc",
    "yolo-seg": "exports.yolo_seg",
}


def format_of(name: str) -> "Format":
    """The format of that name, a key of FORMATS."""
    return module(FORMATS[name]).FORMAT
