"""Outputs of the stages for the report's tests, and the scores of them counted pixel by pixel."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lxml import html
from PIL import Image

from dataset.mask_png import read_mask, write_mask
from pipeline.files.cam_file import save_cams
from pipeline.steps.maps import Cams
from report.measure import ReportJob
from voc12.spec import SPEC

KEYS = {"a": [0], "b": [14, 0, 11], "c": [], "d": [7], "e": [17, 14]}
LABELS = (0, 1, 8, 15, 255)  # of the random masks


def add_outputs(world: Path) -> ReportJob:
    """Random masks and CAM files beside the images of the `world` fixture; "d" is kept whole, "c" hardly at all."""
    for seed, (image_id, keys) in enumerate(KEYS.items()):
        rng = np.random.default_rng(seed + 100)
        truth = read_mask(world / "SegmentationClass" / f"{image_id}.png")
        unsure = {"d": 0.0, "c": 0.9}.get(image_id, 0.1 + 0.1 * seed)
        mask = np.where(rng.random(truth.shape) < 0.5, truth, rng.choice(np.array(LABELS, np.uint8), truth.shape))
        mask[mask == 255] = 0
        mask[rng.random(truth.shape) < unsure] = 255
        write_mask(world / "masks" / f"{image_id}.png", mask)
        maps = rng.random((len(keys), 4, 5)).astype(np.float32)
        cams = Cams(np.array(keys, np.int64), maps, maps[:, ::-1].copy(), truth.shape)
        save_cams(world / "cams" / f"{image_id}.npz", cams, {})
    return ReportJob(
        world / "masks", world / "JPEGImages", world / "cams", world / "SegmentationClass", truth_needed=True, spec=SPEC
    )


@dataclass
class Counted:
    """Pixels of (true label, predicted label), both below 255 or the prediction 255."""

    pairs: Counter = field(default_factory=Counter)

    def true(self, label: int) -> int:
        return sum(count for (true, _), count in self.pairs.items() if true == label)

    def given(self, label: int) -> int:
        return sum(count for (_, given), count in self.pairs.items() if given == label)

    def right(self) -> int:
        return sum(count for (true, given), count in self.pairs.items() if true == given)

    def kept(self, label: int | None = None) -> int:
        return sum(n for (true, given), n in self.pairs.items() if given != 255 and label in (None, true))

    def total(self) -> int:
        return sum(self.pairs.values())

    def iou(self, label: int) -> float | None:
        if not self.true(label):
            return None
        right = self.pairs[label, label]
        return right / (self.true(label) + self.given(label) - right)

    def miou(self) -> float:
        every = [iou for iou in map(self.iou, range(21)) if iou is not None]
        return sum(every) / len(every)


def count(world: Path, ids: str) -> Counted:
    """The pixels of some images, one at a time."""
    counted = Counted()
    for image_id in ids:
        truth = np.asarray(Image.open(world / "SegmentationClass" / f"{image_id}.png"))
        mask = np.asarray(Image.open(world / "masks" / f"{image_id}.png"))
        for true, given in zip(truth.ravel().tolist(), mask.ravel().tolist()):
            if true != 255:
                counted.pairs[true, given] += 1
    return counted


def kept_share(world: Path, image_id: str) -> float:
    mask = np.asarray(Image.open(world / "masks" / f"{image_id}.png")).ravel().tolist()
    return sum(value != 255 for value in mask) / len(mask)


def shown(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def parsed(page: Path) -> html.HtmlElement:
    return html.fromstring(page.read_bytes())


def texts(elements: list) -> list[str]:
    return [" ".join(element.text_content().split()) for element in elements]
