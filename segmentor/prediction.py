"""Probabilities of one image by a trained network."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from segmentor.augment import fitted, normalised
from segmentor.networks import enlarged

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Looks:
    """How an image is looked at: sizes whose probabilities are averaged, and mirrored too.

    scales  factors of its own size, or of that at which it fits into `resize`
    resize  (long, short) sides of a box; None: its own size
    """

    normalisation: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    precision: str = "float32"
    resize: tuple[int, int] | None = None

    def on(self, device: torch.device) -> "Looks":
        """The same on another device."""
        return replace(self, device=device)


@torch.inference_mode()
def probabilities(network: nn.Module, image: np.ndarray, looks: Looks) -> np.ndarray:
    """(H, W, 3) uint8 RGB to (C, H, W) float32, summing to 1 over C: the mean of the softmax of every look."""
    total: Tensor | None = None
    every = list(_each(image, looks))
    for look, mirrored in every:
        batch = torch.from_numpy(look)[None].to(looks.device)
        dtype = PRECISIONS[looks.precision]
        with torch.autocast(looks.device.type, dtype, enabled=dtype != torch.float32):
            scores = network(batch)
        at_look = enlarged(scores, batch)
        found = nn.functional.interpolate(at_look, size=image.shape[:2], mode="bilinear", align_corners=False)[0]
        if mirrored:
            found = found.flip(-1)
        found = found.softmax(0)
        total = found if total is None else total + found
    assert total is not None
    return (total / len(every)).cpu().numpy()


def _each(image: np.ndarray, looks: Looks) -> Iterator[tuple[np.ndarray, bool]]:
    """Normalised images (3, h, w) and whether they are mirrored."""
    for scale in looks.scales:
        height, width = fitted((image.shape[0], image.shape[1]), looks.resize, scale)
        same = (height, width) == image.shape[:2]
        sized = image if same else cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        look = normalised(sized, looks.normalisation)
        yield look.copy(), False
        if looks.flip:
            yield look[..., ::-1].copy(), True
