"""PASCAL-Context (VOC 2010's images) with its 59 frequent classes (Mottaghi et al., CVPR 2014)."""

from dataset.spec import VOC_THRESHOLD, DatasetSpec, RawData, RawForm, in_order, prompts_with
from voc12.spec import PLAIN_NAMES, SEGCLIP_NAMES

CLASSES = tuple(
    "aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling chair cloth "
    "computer cow cup curtain dog door fence floor flower food grass ground horse keyboard light motorbike mountain "
    "mouse person plate platform pottedplant road rock sheep shelves sidewalk sign sky snow sofa table track train "
    "tree truck tvmonitor wall water window wood".split()
)

# The classes' numbers among the 459 labels, which are in alphabetical order as the classes are.
NUMBERS_OF_459 = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
OF_459 = in_order(NUMBERS_OF_459, set(range(460)) - set(NUMBERS_OF_459))

SPOKEN_BY_SEGCLIP = {"aeroplane": "airplane"} | {n: said for n, said in SEGCLIP_NAMES.items() if n in CLASSES}

SPEC = DatasetSpec(
    name="context59",
    classes=CLASSES,
    prompts=prompts_with(CLASSES, {name: said for name, said in PLAIN_NAMES.items() if name in CLASSES}),
    background_prompts=(),
    has_background=False,
    box_threshold=VOC_THRESHOLD,
    maskclip_frame=(520, 520),
    segclip_prompts=prompts_with(CLASSES, SPOKEN_BY_SEGCLIP),
    unseen=(19, 33, 48, 14, 7, 24, 6, 54, 31, 0),  # cow to aeroplane, in the order of ZS3Net (2019)
    images="the JPEGImages folder of VOC2010",
    raw=RawData(
        holds="the folder trainval of PASCAL-Context's .mat files of 459 labels, or PNGs of 0 (background) to 59",
        forms=(
            RawForm(OF_459, ".mat", nested=False, variable="LabelMap"),
            RawForm(in_order(range(1, 60), (0, 255)), nested=False),
        ),
        counts={"train": 4_998, "val": 5_105, "both": 10_103},
    ),
)
