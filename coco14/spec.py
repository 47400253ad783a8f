"""The 80 classes of COCO and what CLIP is asked for them, as in CLIP-ES (2023)."""

from dataset.spec import LABELLED_SPLIT, DatasetSpec, prompts_with

# The reference's names in COCO's order of category ids; OFFICIAL_NAMES are its own spellings.
CLASSES = tuple(
    "person, bicycle, car, motorbike, aeroplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, sofa, pottedplant, bed, diningtable, toilet, tvmonitor, "
    "laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, "
    "scissors, teddy bear, hair drier, toothbrush".split(", ")
)

DIFFERING_PROMPTS = {
    "person": "person with clothes,people,human",
    "bird": "bird avian",
    "backpack": "backpack,bag",
    "umbrella": "umbrella,parasol",
    "handbag": "handbag,purse",
    "tie": "necktie",
    "snowboard": "sknowboard",  # sic, in the reference
    "baseball glove": "glove",
    "spoon": "dessertspoon",
    "chair": "chair seat",
    "tvmonitor": "tvmonitor screen",
    "remote": "remote control",
    "hair drier": "hairdrier,blowdrier",
}

# VOC's without those that are classes here or look like one: keyboard and sign.
BACKGROUND = (
    "ground land grass tree building wall sky lake water river sea railway railroad helmet cloud house "
    "mountain ocean road rock street valley bridge"
).split()

# How COCO's own annotation files spell some of the names.
OFFICIAL_NAMES = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}

SPEC = DatasetSpec(
    name="coco14",
    classes=CLASSES,
    prompts=prompts_with(CLASSES, DIFFERING_PROMPTS),
    background_prompts=tuple(BACKGROUND),
    has_background=True,
    box_threshold=0.7,
    tags_by_name=True,
    aliases=tuple(OFFICIAL_NAMES.items()),
    layout=LABELLED_SPLIT,
    images="the folder of COCO's images (train2014)",
)

SPLIT_SIZES = {"train": 82_081, "val": 40_137}  # images with at least one of the classes; there are 82,783 and 40,504
