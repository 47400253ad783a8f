"""The 20 classes of PASCAL VOC and what CLIP is asked for them (CLIP-ES, 2023, section 3.1)."""

from dataset.classes_file import BACKGROUND
from dataset.spec import VOC, VOC_THRESHOLD, DatasetSpec, prompts_with

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()

# Synonym fusion: where the bare name is ambiguous to CLIP.
DIFFERING_PROMPTS = {
    "bird": "bird avian",
    "chair": "chair seat",
    "person": "person with clothes,people,human",
    "tvmonitor": "tvmonitor screen",
}

# What MaskCLIP calls the classes (ECCV 2022).
PLAIN_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}

# What SegCLIP calls them (ICML 2023).
SEGCLIP_NAMES = {"diningtable": "table", "pottedplant": "plant", "tvmonitor": "monitor"}

SPEC = DatasetSpec(
    name="voc12",
    classes=tuple(CLASSES),
    prompts=prompts_with(tuple(CLASSES), DIFFERING_PROMPTS),
    background_prompts=BACKGROUND,
    has_background=True,
    box_threshold=VOC_THRESHOLD,
    plain_prompts=prompts_with(tuple(CLASSES), PLAIN_NAMES),
    tags_by_name=True,
    segclip_prompts=prompts_with(tuple(CLASSES), SEGCLIP_NAMES),
    unseen=(15, 16, 17, 18, 19),  # pottedplant to tvmonitor (zero-shot split of SPNet, 2019)
    layout=VOC,
    images="the JPEGImages folder of the data set",
)

# mIoU on `train` (1,464 images) with ViT-B/16 (paper, tables 3 and 4): initial CAM, with CAA, with CRF.
PUBLISHED = {"cam": 58.6, "attn": 70.8, "crf": 75.0}
