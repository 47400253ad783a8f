"""Masks in the layouts of other trainers: links, lists and a configuration.

Both layouts are as the sources read them: libs/datasets/voc.py of kazuto1011/deeplab-pytorch, and
mmseg/datasets/basesegdataset.py of open-mmlab/mmsegmentation 1.x. docs/trainers.md says how to go on from there.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import cannot_write, write_text
from common.images import image_size, opened
from dataset.mask_png import read_mask, voc_palette, write_mask

TRAIN, VALIDATION = "train", "val"
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Layout:
    """Where a trainer looks for things, below the folder that is written.

    images, masks  folders; masks of the two parts of the data by name
    lists          folder of the lists, which are named by `names`
    """

    images: str
    masks: dict[str, str]
    lists: str
    names: dict[str, str]


LAYOUTS = {
    "deeplab-pytorch": Layout(
        "VOC2012/JPEGImages",
        {TRAIN: "VOC2012/SegmentationClassAug", VALIDATION: "VOC2012/SegmentationClass"},
        "VOC2012/ImageSets/SegmentationAug",
        {TRAIN: "train_aug.txt", VALIDATION: "val.txt"},
    ),
    "mmsegmentation": Layout(
        "images",
        {TRAIN: "masks/train", VALIDATION: "masks/val"},
        "lists",
        {TRAIN: "train.txt", VALIDATION: "val.txt"},
    ),
}


@dataclass(frozen=True)
class Listed:
    """An image and its mask, under the name by which the trainer knows both."""

    name: str
    image: Path
    mask: Path


@dataclass
class Exported:
    """What was written: how many pairs, how many masks were palette PNGs, and (id, reason) of what was left out."""

    pairs: int
    palettes: int
    failures: list[tuple[str, str]]


def export(kind: str, part: str, items: Sequence[tuple[str, Path, Path]], out: Path, copy: bool = False) -> Exported:
    """Write one part, "train" or "val", of the data: (id, image, mask) each.

    Images become `<name>.jpg` whatever they are: both trainers look into a file, not at its suffix. Masks of mode P are
    written anew in mode L, since readers that turn colours into grey (cv2.IMREAD_GRAYSCALE) would get wrong labels.
    copy  files instead of relative links
    """
    layout, done = LAYOUTS[kind], Exported(0, 0, [])
    names: dict[str, str] = {}
    for image_id, image, mask in items:
        try:
            name = _name(kind, image_id, names)
            done.palettes += _placed(Listed(name, image, mask), layout, part, out, copy)
            names[name] = image_id
        except UserError as error:
            done.failures.append((image_id, str(error)))
    if not names:
        raise UserError(f"nothing to export: {done.failures[0][1] if done.failures else 'no image in the split'}")
    write_text(out / layout.lists / layout.names[part], "".join(_line(kind, layout, part, name) for name in names))
    done.pairs = len(names)
    return done


def _name(kind: str, image_id: str, taken: dict[str, str]) -> str:
    """The id as the trainer's lists can hold it: one of deeplab-pytorch's ends at a space."""
    name = _SPACES.sub("_", image_id) if kind == "deeplab-pytorch" else image_id
    if name in taken:
        raise UserError(f"{image_id}: without spaces it has the name of {taken[name]}; rename one of them")
    return name


def _line(kind: str, layout: Layout, part: str, name: str) -> str:
    if kind == "mmsegmentation":
        return f"{name}\n"
    images, masks = (folder.partition("/")[2] for folder in (layout.images, layout.masks[part]))
    return f"/{images}/{name}.jpg /{masks}/{name}.png\n"


def _placed(item: Listed, layout: Layout, part: str, out: Path, copy: bool) -> bool:
    """Put an image and its mask in their places; whether the mask was a palette PNG."""
    with opened(item.mask, ("PNG",), "mask") as mask:
        mode, size = mask.mode, (mask.height, mask.width)
    if image_size(item.image) != size:
        raise UserError(f"{item.mask}: size {size} for an image of {image_size(item.image)}; made from other images?")
    _put(item.image, out / layout.images / f"{item.name}.jpg", copy)
    place = out / layout.masks[part] / f"{item.name}.png"
    if mode == "L":
        _put(item.mask, place, copy)
    else:
        labels = read_mask(item.mask)
        place.unlink(missing_ok=True)  # it may be a link to the mask itself
        write_mask(place, labels)
    return mode != "L"


def _put(source: Path, place: Path, copy: bool) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if copy:
            shutil.copyfile(source, place)
        else:
            place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()))
    except OSError as error:
        raise cannot_write(place, error) from error


# --- configurations -------------------------------------------------------------------------------


def write_configuration(kind: str, out: Path, labels: Sequence[str], validated: bool) -> Path:
    """What to tell the trainer of the data; returns the file."""
    if kind == "mmsegmentation":
        path = out / "dataset.py"
        write_text(path, _mmseg(out, labels, validated))
        return path
    write_text(out / "labels.txt", "".join(f"{value}\t{name}\n" for value, name in enumerate(labels)))
    path = out / "dataset.yaml"
    write_text(path, _deeplab(out, labels))
    return path


def _deeplab(out: Path, labels: Sequence[str]) -> str:
    """The DATASET part of a configuration such as configs/voc12.yaml."""
    return f"""# Takes the place of the DATASET part of configs/voc12.yaml.
DATASET:
    NAME: vocaug
    ROOT: {json.dumps(str(out.resolve()))}
    LABELS: {json.dumps(str((out / "labels.txt").resolve()))}
    N_CLASSES: {len(labels)}
    IGNORE_LABEL: 255
    SCALES: [0.5, 0.75, 1.0, 1.25, 1.5]
    SPLIT:
        TRAIN: train_aug
        VAL: val
        TEST: val
"""


def _mmseg(out: Path, labels: Sequence[str], validated: bool) -> str:
    """A data set configuration to be named in `_base_`."""
    colours = [[int(level) for level in colour] for colour in voc_palette()[: len(labels)]]
    part = VALIDATION if validated else TRAIN
    return f"""# A data set for mmsegmentation 1.x, to be named in `_base_` as one of configs/_base_/datasets is.
data_root = {json.dumps(str(out.resolve()))}
metainfo = dict(
    classes={json.dumps(list(labels))},
    palette={json.dumps(colours)})
crop_size = (512, 512)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="lists/train.txt",
        data_prefix=dict(img_path="images", seg_map_path="masks/train"),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="lists/{part}.txt",
        data_prefix=dict(img_path="images", seg_map_path="masks/{part}"),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
"""
