"""Detectron2's semantic segmentation: images and masks of the same names, and a file that registers them.

Its `load_sem_seg` looks for `.jpg` and `.png` in two folders, and not into folders below.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from common.files import write_text
from dataset.palettes import voc_palette
from dataset.spec import IGNORE_INDEX
from exports.files import Add, Example, Format, Job, flat


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """images/<part>, masks/<part>, register.py."""

    def add(example: Example) -> None:
        job.place_image(example, f"images/{example.part}", ".jpg")
        job.place_mask(example, f"masks/{example.part}")

    yield add
    text = f'''"""Registers pseudo_masks_train (and pseudo_masks_val) with detectron2: import this before training."""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg

ROOT = Path(__file__).resolve().parent
CLASSES = {json.dumps(list(job.labels))}
COLORS = {voc_palette()[: len(job.labels)].tolist()}

for part in {json.dumps(list(job.parts))}:
    name, images, masks = f"pseudo_masks_{{part}}", str(ROOT / "images" / part), str(ROOT / "masks" / part)
    DatasetCatalog.register(name, lambda images=images, masks=masks: load_sem_seg(masks, images))
    MetadataCatalog.get(name).set(
        stuff_classes=CLASSES, stuff_colors=COLORS, ignore_label={IGNORE_INDEX}, evaluator_type="sem_seg",
        image_root=images, sem_seg_root=masks)
'''
    write_text(job.path("register.py"), text)


FORMAT = Format(writing, "register.py", flat, listed=False)
