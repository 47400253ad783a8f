"""The layout that open-mmlab/mmsegmentation 1.x reads (its mmseg/datasets/basesegdataset.py)."""

import json
from collections.abc import Sequence
from pathlib import Path

from common.files import write_text
from dataset.mask_png import voc_palette
from exports.files import TRAIN, VALIDATION, Format, Part


def _configure(out: Path, labels: Sequence[str], validated: bool) -> Path:
    """Write a data set configuration to be named in `_base_`; without a validation part it validates on "train"."""
    part, path = VALIDATION if validated else TRAIN, out / "dataset.py"
    colours = voc_palette()[: len(labels)].tolist()
    text = f"""# A data set for mmsegmentation 1.x, to be named in `_base_` as one of configs/_base_/datasets is.
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
    write_text(path, text)
    return path


FORMAT = Format(
    {part: Part("images", f"masks/{part}", f"lists/{part}.txt") for part in (TRAIN, VALIDATION)},
    lambda _part, name: name,
    _configure,
)
