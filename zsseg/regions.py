"""CLIP on regions of photos: each cut out, what is outside of it filled, resized, and encoded (docs/zsseg.md).

Regions of several photos go through CLIP together. Letters: Q regions, K texts, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clip.image import MEAN, STD
from clip.load import Clip
from clip.resnet import is_resnet
from clip.vision import last_block_of_class_token
from pipeline.steps.regions import Box, Regions
from pipeline.steps.trunk import run_trunk

SIDE = 224  # of the squares that regions are resized to, as published for every CLIP
LOGIT_SCALE = 100.0  # of cosines; CLIP's own is about that
FILLS = ("mean", "zero")
REGIONS_ON_CPU, REGIONS_ON_GPU = 8, 256  # that go through CLIP together


@dataclass(frozen=True)
class Crops:
    """How regions are cut out.

    threshold  pixels whose weight is above it belong to a region
    fill       what is outside of it: "mean" is CLIP's mean colour, which is 0 once normalised; "zero" is black
    expand     the box of a region is so many times as wide and high; more of what is outside, and no context, is in it
    matting    soft masks weigh the pixels instead of cutting them out
    side       of the squares that regions are resized to
    """

    threshold: float = 0.5
    fill: str = "mean"
    expand: float = 1.0
    matting: bool = False
    side: int = SIDE


@dataclass(frozen=True)
class Encoded:
    """The regions of a photo that have a pixel: their numbers (Q',) int64 and unit features (Q', E)."""

    numbers: np.ndarray
    features: Tensor


def expanded(box: Box, ratio: float) -> Box:
    """A box around the same centre, in float32, each coordinate cut to an integer; it may leave the photo."""
    left, top, right, bottom = np.array(box, np.float32)
    centre, half = np.array([left + right, top + bottom]) / 2, np.array([right - left, bottom - top]) * ratio / 2
    corners = np.concatenate([centre - half, centre + half]).astype(np.float32)
    x, y, u, v = np.trunc(corners).astype(int).tolist()
    return x, y, u, v


def normalised(rgb: np.ndarray) -> Tensor:
    """(3, h, w) float32 as CLIP takes it, of (h, w, 3) RGB from 0 to 255."""
    mean, deviation = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.tensor(rgb).permute(2, 0, 1).float() - mean) / deviation


def cut_out(rgb: np.ndarray, regions: Regions, crops: Crops) -> Iterator[tuple[int, Box, Tensor]]:
    """Every region with a pixel: its number, its box in the photo, and its square (3, side, side) float32.

    rgb  (h, w, 3) RGB from 0 to 255, of the regions' size
    """
    height, width = regions.size
    if rgb.shape[:2] != (height, width):
        raise ValueError(f"a photo of {rgb.shape[:2]} and regions of {regions.size}")
    photo = normalised(rgb)
    fill = normalised(np.zeros((1, 1, 3), np.float32)) if crops.fill == "zero" else None
    for number, box, cut in regions.each(crops.threshold):
        x, y, u, v = expanded(box, crops.expand) if crops.expand != 1 else box
        box = max(x, 0), max(y, 0), min(u, width), min(v, height)
        weights = torch.from_numpy(np.ascontiguousarray(cut(box)))
        if not crops.matting:
            weights = (weights > crops.threshold).float()
        part = photo[:, box[1] : box[3], box[0] : box[2]] * weights
        if fill is not None:
            part = part + (1 - weights) * fill
        square = F.interpolate(part[None], (crops.side, crops.side), mode="bicubic", align_corners=False)[0]
        yield number, box, square


@torch.no_grad()
def encode_squares(clip: Clip, squares: Tensor, precision: str = "float32", compiled: bool = False) -> Tensor:
    """(R, 3, side, side) to (R, E) unit features."""
    squares = squares.to(clip.device)
    if is_resnet(clip.visual):
        features = clip.model.encode_image(squares)
    else:
        tokens = run_trunk(clip.visual, squares, "bicubic", 0, precision, compiled).last_input.float()
        features = last_block_of_class_token(clip.visual, tokens)
    return F.normalize(features.float(), dim=-1)


def encode_regions(
    clip: Clip,
    photos: Iterable[tuple[np.ndarray, Regions]],
    crops: Crops,
    precision: str = "float32",
    compiled: bool = False,
    at_once: int | None = None,
) -> list[Encoded]:
    """The regions of photos, each (h, w, 3) RGB from 0 to 255; regions of all of them fill the batches.

    at_once  regions that go through CLIP together; None: by device
    """
    at_once = at_once or (REGIONS_ON_CPU if clip.device.type == "cpu" else REGIONS_ON_GPU)
    numbers: list[list[int]] = []

    def squares() -> Iterator[Tensor]:
        for rgb, regions in photos:
            numbers.append([])
            for number, _, square in cut_out(rgb, regions, crops):
                numbers[-1].append(number)
                yield square

    waiting, features = squares(), []
    while batch := list(islice(waiting, at_once)):
        features.append(encode_squares(clip, torch.stack(batch), precision, compiled))
    together = torch.cat(features) if features else torch.zeros(0, clip.texts.embedding, device=clip.device)
    parts = together.split([len(found) for found in numbers])
    return [Encoded(np.array(found, np.int64), part) for found, part in zip(numbers, parts)]


def classify(
    features: Tensor,
    text: Tensor,
    classes: Sequence[int],
    background: Tensor | None = None,
    logit_scale: float = LOGIT_SCALE,
) -> Tensor:
    """(Q', k) probabilities of these classes, which compete with each other and with background words.

    text  (K, E), background (b, E): unit embeddings
    """
    words = text[list(classes)] if background is None else torch.cat([text[list(classes)], background])
    return (logit_scale * features @ words.T).softmax(dim=-1)[:, : len(classes)]
