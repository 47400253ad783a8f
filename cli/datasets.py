"""The data sets: where the spec of each is. Imports none of them, so that --help is quick."""

from typing import TYPE_CHECKING

from common.package import module

if TYPE_CHECKING:
    from dataset.spec import DatasetSpec

# A new one is a file with its spec, a line here and a test.
SPECS = {
    "toyworld": "toyworld.spec",
    "voc12": "voc12.spec",
    "coco14": "coco14.spec",
    "voc20": "voc12.voc20",
    "context59": "voc12.context59",
    "context60": "voc12.context60",
    "cocostuff": "coco14.cocostuff",
    "cocoobject": "coco14.cocoobject",
    "ade20k": "dataset.ade20k",
    "cityscapes": "dataset.cityscapes",
}
FOLDER = "folder"  # a user's own images, with the classes of --classes


def spec_of(name: str) -> "DatasetSpec":
    """The frozen spec of a data set of the table."""
    return module(SPECS[name]).SPEC
