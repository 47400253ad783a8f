"""What the segmentor's tests build: scenes of coloured squares, a network of two convolutions, and runs of it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segmentor.networks import Body, Segmentor
from segmentor.settings import Settings, Views
from segmentor.trainer import Job, start
from tests.training.small import ALONE
from training.pairs import Pair
from training.ranks import Ranks
from training.state import State

LABELS = ("background", "red", "blue")
COLOURS = ((90, 160, 90), (200, 40, 40), (40, 60, 200))


def scene(seed: int, size: tuple[int, int] = (64, 72)) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 with a red and a blue square on green, slightly noisy, and its (H, W) labels; one row is 255."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8)
    for label in (1, 2):
        side = int(rng.integers(20, 32))
        top, left = (int(rng.integers(0, whole - side)) for whole in size)
        labels[top : top + side, left : left + side] = label
    image = np.array(COLOURS, np.int64)[labels] + rng.integers(-12, 13, (*size, 3))
    labels[-1] = 255
    return image.clip(0, 255).astype(np.uint8), labels


def write_scenes(root: Path, count: int) -> list[Pair]:
    """Scenes as files: images/<id>.png and masks/<id>.png."""
    pairs = []
    for index in range(count):
        image, labels = scene(index)
        pair = Pair(f"s{index}", root / "images" / f"s{index}.png", root / "masks" / f"s{index}.png")
        for path, array in ((pair.image, image), (pair.mask, labels)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        pairs.append(pair)
    return pairs


class SmallBody(Body):
    """Two convolutions with a batch norm between; a quarter of the grid."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.width = width
        self.encoder = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), nn.BatchNorm2d(12), nn.ReLU())
        self.decode_head = nn.Conv2d(12, width, 3, padding=1)

    def features(self, images: Tensor) -> Tensor:
        return self.decode_head(self.encoder(images)).relu()


def small_network(seed: int = 0) -> Segmentor:
    torch.manual_seed(seed)
    return Segmentor(SmallBody(), nn.Conv2d(12, len(LABELS), 1))


def settings(**changes: Any) -> Settings:
    """Of a short run; `views` by their own names."""
    views = Views(crop=48, scales=(0.9, 1.3))
    usual: dict[str, Any] = {"arch": "small", "labels": LABELS, "images": 6, "max_iters": 6, "batch": 2, "lr": 0.01}
    return Settings(**{**usual, "views": views, "head_factor": 1.0, "warmup": 0, **changes})


def small_job(root: Path, pairs: list[Pair], out: str = "out", **changes: Any) -> Job:
    more = {
        name: changes.pop(name)
        for name in ("save_every", "validate_every", "keep", "readers", "held_out")
        if name in changes
    }
    (root / out).mkdir(exist_ok=True)
    return Job(settings(images=len(pairs), **changes), pairs, root / out, **more)


def small_state(job: Job, ranks: Ranks = ALONE, network: Segmentor | None = None) -> State:
    return start(job, network or small_network(), ranks)
