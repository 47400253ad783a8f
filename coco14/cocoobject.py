"""COCO's 80 things, the rest of each picture being background, as GroupViT (CVPR 2022) scores COCO-Stuff's masks."""

from coco14.cocostuff import CLASSES as THINGS_AND_STUFF
from coco14.cocostuff import NEVER_USED
from coco14.spec import BACKGROUND, OFFICIAL_NAMES
from coco14.spec import CLASSES as THINGS
from coco14.spec import SPEC as COCO14
from dataset.spec import DatasetSpec, RawData, RawForm

CLASSES = THINGS_AND_STUFF[: len(THINGS)]
THING_VALUES = [value for value in range(91) if value not in NEVER_USED]
OTHERS = (*range(91, 182), 255)  # stuff, and what was never labelled

SPEC = DatasetSpec(
    name="cocoobject",
    classes=CLASSES,
    prompts=COCO14.prompts,
    background_prompts=tuple(BACKGROUND),
    has_background=True,
    box_threshold=COCO14.box_threshold,
    tags_by_name=True,
    aliases=tuple((ours, theirs) for theirs, ours in OFFICIAL_NAMES.items()),
    plain_prompts=tuple((name,) for name in CLASSES),
    segclip_threshold=0.65,
    images="the folder of COCO's images (val2017)",
    raw=RawData(
        holds="stuffthingmaps (train2017 and val2017, or one of them) of stuffthingmaps_trainval2017.zip",
        forms=(
            RawForm(
                {value: index + 1 for index, value in enumerate(THING_VALUES)} | dict.fromkeys(OTHERS, 0),
                beside=("TrainIds.png",),
            ),
        ),
        counts={"train2017": 118_287, "val2017": 5_000, "both": 123_287},
    ),
)
