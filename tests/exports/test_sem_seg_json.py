"""detectron2's records of predictions: pycocotools reads them back."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from exports.files import TRAIN, Job, export
from exports.table import format_of
from tests.exports.test_formats import items
from tests.segmentor.small import scene


def test_records_hold_each_class_of_each_mask_under_its_number(tmp_path: Path) -> None:
    job = Job(tmp_path / "out", ("red", "green", "blue"), False, numbers={0: 7, 2: 40})
    export(format_of("sem-seg-json"), job, {TRAIN: items(tmp_path, ("a", "b"))})
    found = json.loads((tmp_path / "out/train/sem_seg_predictions.json").read_text())
    assert [(one["file_name"], one["category_id"]) for one in found] == [
        (name, number) for name in ("a.png", "b.jpg") for number in (7, 1, 40)
    ]
    for index, one in enumerate(found):
        labels = scene(index // 3)[1]
        assert np.array_equal(coco_mask.decode(one["segmentation"]), labels == index % 3)
