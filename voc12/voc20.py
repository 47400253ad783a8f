"""PASCAL VOC 2012 without background, as MaskCLIP scores it: pixels of the background are left out.

The background prompts stay: CLIP-ES lets them compete, which tells a class from its surroundings also where these are
not scored. MaskCLIP does not use them here.
"""

from dataclasses import replace

from dataset.spec import RawData, RawForm, in_order
from voc12.spec import SPEC as VOC12

SPEC = replace(
    VOC12,
    name="voc20",
    has_background=False,
    images="the JPEGImages folder of VOC2012",
    raw=RawData(
        holds="the folder SegmentationClass (or SegmentationClassAug) of VOC2012 itself, with PNGs of 0..20 and 255",
        forms=(RawForm(in_order(range(1, 21), (0, 255)), nested=False),),
        counts={"train": 1_464, "val": 1_449, "trainval": 2_913, "train_aug and val": 12_031},
    ),
)
