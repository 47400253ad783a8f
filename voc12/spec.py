"""The 20 classes of PASCAL VOC and what CLIP is asked for them (CLIP-ES, section 3.1; clip_es section 7)."""

from dataset.spec import DatasetSpec, prompts_with

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

# What MaskCLIP calls the classes (other_systems section 0.3).
PLAIN_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}

BACKGROUND = (
    "ground land grass tree building wall sky lake water river sea railway railroad keyboard helmet cloud house "
    "mountain ocean road rock street valley bridge sign"
).split()

SPEC = DatasetSpec(
    name="voc12",
    classes=tuple(CLASSES),
    prompts=prompts_with(tuple(CLASSES), DIFFERING_PROMPTS),
    background_prompts=tuple(BACKGROUND),
    has_background=True,
    box_threshold=0.4,
    tagged_by_name=True,
    plain_prompts=prompts_with(tuple(CLASSES), PLAIN_NAMES),
    unseen=(15, 16, 17, 18, 19),  # pottedplant to tvmonitor (other_systems section 0.4)
)

# mIoU on `train` (1,464 images) with ViT-B/16 (paper, tables 3 and 4): initial CAM, with CAA, with CRF.
PUBLISHED = {"cam": 58.6, "attn": 70.8, "crf": 75.0}
