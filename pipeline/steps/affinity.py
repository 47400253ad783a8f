"""Step 2: class-aware attention affinity (CLIP-ES, section 3.2; docs/methods.md 1.4)."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.steps.tensors import min_max, to_numpy

ATTENTION_BLOCKS = 8  # the affinity averages this many last blocks (paper, section 4.1); all, where there are fewer


def transition_matrix(attention: Tensor) -> Tensor:
    """Head-averaged attention (..., N, N), mean over blocks, to the transition matrix T (..., N, N).

    Sinkhorn normalisation (columns, then rows, three times), symmetrised, squared.
    """
    matrix = attention
    for _ in range(3):
        matrix = matrix / matrix.sum(dim=-2, keepdim=True)
        matrix = matrix / matrix.sum(dim=-1, keepdim=True)
    matrix = (matrix + matrix.transpose(-2, -1)) / 2
    return matrix @ matrix


def mean_attention(attention: Sequence[Tensor], blocks: int = ATTENTION_BLOCKS) -> Tensor:
    """L tensors (B, N, N) to the mean over the last blocks, (B, N, N)."""
    return torch.stack(list(attention[-blocks:])).mean(dim=0)


def box_mask(cam: np.ndarray, threshold: float) -> np.ndarray:
    """Union of the `boxes` of what stands out in a CAM, (h, w) bool."""
    mask = np.zeros(cam.shape, bool)
    for top, left, bottom, right in boxes(cam, threshold):
        mask[top:bottom, left:right] = True
    return mask


def boxes(cam: np.ndarray, threshold: float) -> list[tuple[int, int, int, int]]:
    """The bounding boxes (top, left, bottom, right) of what stands out in a CAM.

    cam        (h, w) float32 in [0, 1]
    threshold  share of the maximum above which a pixel counts
    As in the reference, boxes are half-open after their far corner is clipped to w-1 and h-1, so a box that touches the
    right or bottom border loses its last column or row, and may be empty.
    """
    levels = (cam * 255).astype(np.uint8)
    binary = (levels > int(threshold * levels.max())).astype(np.uint8) * 255
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    found, (height, width) = [], cam.shape
    for contour in contours:
        x, y, box_width, box_height = cv2.boundingRect(contour)
        found.append((y, x, min(y + box_height, height - 1), min(x + box_width, width - 1)))
    return found


def refine(transitions: Tensor | Sequence[Tensor], cams: Sequence[Tensor], threshold: float) -> list[Tensor]:
    """Spread each CAM along the affinity, inside its boxes: minmax((T * mask) @ cam).

    transitions  (B, N, N), or B of (N, N)
    cams         B tensors (k_i, h, w) in [0, 1]
    Returns B tensors (k_i, h, w) in [0, 1]. The maps of the whole batch go to the CPU for their boxes at once.
    """
    all_cams = torch.cat(list(cams))
    if not len(all_cams):
        return list(cams)
    boxes = [box_mask(cam, threshold) for cam in to_numpy(all_cams)]
    # (T * mask) @ cam: the mask goes over T's columns, so it can as well multiply the cam
    masked = all_cams * torch.from_numpy(np.stack(boxes)).to(all_cams.device)
    return [
        min_max((maps.flatten(1) @ matrix.T).view_as(maps)) if len(maps) else maps
        for matrix, maps in zip(transitions, masked.split([len(maps) for maps in cams]))
    ]
