"""The images a phase trains on, and what their captions may name.

Masks stop here: of every drawn scene only the image and the words leave this file.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from toyworld.scenes import Style, draw_scene
from toyworld.training.captions import CONCEPTS

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
STD = (0.26862954, 0.26130258, 0.27577711)
COLOUR_GAIN = 0.12  # how far each channel's brightness is varied


@dataclass(frozen=True)
class Captioned:
    """Images of one size and what is in them.

    images  (n, H, W, 3) uint8 RGB
    present (n, C) bool, which concepts a full caption names
    """

    images: np.ndarray
    present: np.ndarray


def _captioned(index: int, seed: int, style: Style) -> tuple[np.ndarray, np.ndarray]:
    cv2.setNumThreads(1)
    scene = draw_scene(seed, index, style)
    named = {*scene.classes, *scene.backgrounds}
    return scene.image, np.array([concept in named for concept in CONCEPTS])


def draw_captioned(seed: int, first: int, count: int, style: Style, processes: int) -> Captioned:
    """Scenes first .. first+count-1 of a seed; the style must fix one size."""
    draw = partial(_captioned, seed=seed, style=style)
    indices = range(first, first + count)
    if processes <= 1:
        drawn = [draw(index) for index in indices]
    else:
        # spawn: a forked child of a process whose OpenMP threads have run may hang.
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            drawn = pool.map(draw, indices, chunksize=64)
    images, present = zip(*drawn)
    return Captioned(np.stack(images), np.stack(present))


def as_input(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, CLIP's normalisation; mirrored and tinted at random."""
    mirrored = np.where((rng.random(len(images)) < 0.5)[:, None, None, None], images[:, :, ::-1], images)
    pixels = torch.from_numpy(mirrored).permute(0, 3, 1, 2).float() / 255
    gains = torch.from_numpy(rng.uniform(1 - COLOUR_GAIN, 1 + COLOUR_GAIN, (len(images), 3, 1, 1))).float()
    return ((pixels * gains).clamp(max=1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def batches(rng: np.random.Generator, groups: list[Captioned], size: int) -> Iterator[Captioned]:
    """Random batches for ever, every group (one image size each) as often as its share of the images."""
    shares = np.array([len(group.images) for group in groups], float)
    queues: list[np.ndarray] = [np.zeros(0, int) for _ in groups]
    while True:
        chosen = int(rng.choice(len(groups), p=shares / shares.sum()))
        if len(queues[chosen]) < size:
            queues[chosen] = rng.permutation(len(groups[chosen].images))
        taken, queues[chosen] = queues[chosen][:size], queues[chosen][size:]
        yield Captioned(groups[chosen].images[taken], groups[chosen].present[taken])
