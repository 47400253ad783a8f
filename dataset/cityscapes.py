"""Cityscapes: the 19 of its 34 labels that are scored."""

from dataset.spec import VOC_THRESHOLD, DatasetSpec, RawData, RawForm, in_order, prompts_with

CLASSES = tuple(
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,car,truck,"
    "bus,train,motorcycle,bicycle".split(",")
)

NUMBERS_OF_34 = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of the classes

SPEC = DatasetSpec(
    name="cityscapes",
    classes=CLASSES,
    prompts=prompts_with(CLASSES, {}),
    background_prompts=(),
    has_background=False,
    box_threshold=VOC_THRESHOLD,
    maskclip_frame=(1024, 512),
    images="the folder of its cities (leftImg8bit/train)",
    raw=RawData(
        holds="gtFine (train and val, or one of them) with a folder a city",
        forms=(
            RawForm(
                in_order(NUMBERS_OF_34, set(range(34)) - set(NUMBERS_OF_34)),
                ending="_gtFine_labelIds.png",
                image_ending="_leftImg8bit",
            ),
        ),
        counts={"train": 2_975, "val": 500, "both": 3_475},
    ),
)
