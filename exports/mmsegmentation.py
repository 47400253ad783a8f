"""The layout that open-mmlab/mmsegmentation 1.x reads (its mmseg/datasets/basesegdataset.py)."""

import json

from common.files import write_text
from dataset.palettes import voc_palette
from exports.files import TRAIN, VALIDATION, Format, Job, Part, listed


def _configure(job: Job) -> None:
    """Write a data set configuration to be named in `_base_`; without a validation part it validates on "train"."""
    part = VALIDATION if job.validated else TRAIN
    colours = voc_palette()[: len(job.labels)].tolist()
    text = f"""# A data set for mmsegmentation 1.x, to be named in `_base_` as one of configs/_base_/datasets is.
data_root = {json.dumps(str(job.out.resolve()))}
metainfo = dict(
    classes={json.dumps(list(job.labels))},
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
    write_text(job.path("dataset.py"), text)


PARTS = {part: Part("images", f"masks/{part}", f"lists/{part}.txt") for part in (TRAIN, VALIDATION)}
FORMAT = Format(listed(PARTS, lambda _part, name: name, _configure), "dataset.py", shared="images")
