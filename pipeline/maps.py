"""What the steps hand on, and the two operations on maps that several of them share. Imports no step."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Cams:
    """The class activation maps of one image, on the patch grid.

    keys    (k,) int64, 0-based class indices, background not among them
    cam     (k, h, w) float32 in [0, 1], before the affinity
    attn    (k, h, w) float32 in [0, 1], after it
    size    (H, W) of the image in pixels
    """

    keys: np.ndarray
    cam: np.ndarray
    attn: np.ndarray
    size: tuple[int, int]


def min_max(maps: Tensor) -> Tensor:
    """(..., h, w) to [0, 1], each map by its own: (x - min) / (1e-7 + max(x - min)) (clip_es section 3)."""
    shifted = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return shifted / (1e-7 + shifted.amax(dim=(-2, -1), keepdim=True))


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(k, h, w) float32 to (k, H, W) float32, bilinear by OpenCV's pixel-centre convention (clip_es section 3)."""
    height, width = size
    resized = np.empty((len(maps), height, width), np.float32)
    for target, source in zip(resized, maps):
        target[...] = cv2.resize(source.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Tensor on any device to a float32 array."""
    return tensor.detach().to("cpu", torch.float32).numpy()
