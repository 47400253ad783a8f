"""PASCAL-Context with its 59 frequent classes and the background, which is everything else, as GroupViT scores it."""

from dataclasses import replace

from dataset.spec import RawData, RawForm, in_order
from voc12.context59 import CLASSES, NUMBERS_OF_459
from voc12.context59 import SPEC as CONTEXT59

BACKGROUND = 0
OF_459 = dict.fromkeys(range(460), BACKGROUND) | {number: index + 1 for index, number in enumerate(NUMBERS_OF_459)}

SPEC = replace(
    CONTEXT59,
    name="context60",
    has_background=True,
    segclip_threshold=0.25,
    raw=RawData(
        holds="the folder trainval of PASCAL-Context's .mat files of 459 labels, or PNGs of 0 (background) to 59",
        forms=(
            RawForm(OF_459, ".mat", nested=False, variable="LabelMap"),
            RawForm(in_order(range(len(CLASSES) + 1), (255,)), nested=False),
        ),
        counts={"train": 4_998, "val": 5_105, "both": 10_103},
    ),
)
