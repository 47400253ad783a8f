"""The commands of `pseudo-masks`, and how commands are called in messages: by these names where the project is
installed, by their files where it runs in its folder."""

import re
from contextvars import ContextVar

from common.package import PACKAGE

PROGRAM = "pseudo-masks"
# A new one is a module with `main(argv)`, a line here and a test.
COMMANDS = {
    "demo": ("scripts.demo", "all stages on the toy world, with scores and a page to look at"),
    "segment": ("scripts.segment", "photos + names of what is in them -> masks and pictures"),
    "run": ("scripts.run", "images + labels -> masks, in one process without CAM files"),
    "cams": ("generate_cams", "images + labels -> class activation maps"),
    "masks": ("eval_cam_with_crf", "CAM files + images -> DenseCRF -> masks, scores"),
    "scores": ("eval_cam", "CAM files or masks + ground truth -> scores"),
    "tag": ("scripts.tag_images", "images without labels -> the classes that CLIP sees (TagCLIP)"),
    "report": ("scripts.report", "the results as one HTML page"),
    "page": ("scripts.page", "a page in the browser to try photos on"),
    "preview": ("scripts.preview", "a picture of the stages on a few images"),
    "export": ("scripts.export_masks", "masks -> the files of other tools (COCO, YOLO, CVAT, ...)"),
    "train": ("scripts.train_segmentor", "images + masks -> a trained segmentation network"),
    "predict": ("scripts.predict_segmentor", "images -> masks by a trained network"),
    "propose": ("scripts.propose", "images -> regions that may be objects"),
    "prepare voc12": ("scripts.prepare_voc12", "VOC's train_aug and its masks"),
    "prepare coco14": ("scripts.prepare_coco14", "COCO's instances -> split file and masks"),
    "prepare dense": ("scripts.prepare_dense", "Context, COCO-Stuff, ADE20K, Cityscapes as distributed -> masks"),
    "prepare zsseg": ("scripts.prepare_zsseg", "masks of seen and unseen classes"),
    "pseudo-labels": ("scripts.pseudo_labels", "maps + masks of seen classes -> masks for self-training"),
    "learn-prompts": ("scripts.learn_prompts", "images + masks -> learned prompts for CLIP"),
    "train-zsseg": ("scripts.train_zsseg", "images + masks of seen classes -> zsseg's MaskFormer"),
    "superpixels": ("scripts.superpixels", "images -> superpixels, for pretrain-segclip"),
    "pretrain-segclip": ("scripts.pretrain_segclip", "images with captions -> a SegCLIP"),
    "collect-scores": ("scripts.collect_scores", "several files of scores -> one table"),
    "make-toyworld": ("scripts.make_toyworld", "a toy-world data set"),
    "train-toyworld-clip": ("scripts.train_toyworld_clip", "trains the toy world's CLIP"),
    "completion": ("scripts.completion", "shell code that completes commands and options"),
}
_NAMES = {module: name for name, (module, _) in COMMANDS.items()}
_CALL = re.compile(
    r"(?<![\w./-])(?P<python>python )?(?P<m>-m )?"
    r"(?:(?P<root>generate_cams|eval_cam_with_crf|eval_cam)\.py\b|(?P<script>scripts\.\w+))"
)
_running: ContextVar[str] = ContextVar("the command that was called", default="")


def call(name: str) -> None:
    """Remember that this process runs a command by its name in COMMANDS."""
    _running.set(f"{PROGRAM} {name}")


def program() -> str | None:
    """The command as it was typed, for the usage line and errors; None: what argparse takes from sys.argv."""
    return _running.get() or None


def spelled(text: str) -> str:
    """A text for people with commands named as they can be typed: `python generate_cams.py` is `pseudo-masks cams`
    where the project is installed."""
    return _CALL.sub(_name, text) if PACKAGE else text


def _name(call: re.Match[str]) -> str:
    name = _NAMES.get(call["root"] or call["script"])
    if name is None:
        return call[0]
    launched = call["m"] and not call["python"]  # torchrun -m scripts.train_segmentor
    return f"-m clip_pseudo_masks {name}" if launched else f"{PROGRAM} {name}"
