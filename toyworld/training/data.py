"""The phases of the training, the images of each, and batches of images with captions.

Masks stop here: of every drawn scene only the image and the words leave this file.
"""

import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from clip.image import NORMALISATIONS
from toyworld.captions import CONCEPTS, TEMPLATES, caption, content
from toyworld.scenes import Style, draw_scene
from toyworld.spec import TRAINING_SEEDS
from toyworld.training.captions import Vocabulary
from toyworld.training.losses import Weights

COLOUR_GAIN = 0.12  # how far each channel's brightness is varied


@dataclass(frozen=True)
class Phase:
    """Some steps on images of a few sizes.

    sizes: (height, width, how many are drawn), all multiples of the patch, so that they can be batched.
    """

    seed: int
    sizes: tuple[tuple[int, int, int], ...]
    counts: tuple[float, ...]
    radii: tuple[float, float]
    steps: int
    batch: int = 64
    weights: Weights = field(default_factory=Weights)


COUNTS, RADII = Style().counts, Style().radii  # as the data sets have them
PHASES = (
    Phase(TRAINING_SEEDS[0], ((84, 84, 10_000),), (1.0,), (0.34, 0.52), 700, weights=Weights(affinity=1.0, reach=0.0)),
    Phase(TRAINING_SEEDS[1], ((144, 144, 6_000),), (0.5, 0.5), (0.2, 0.42), 700, batch=48),
    Phase(TRAINING_SEEDS[2], ((192, 192, 2_000), (156, 216, 1_000), (216, 156, 1_000)), COUNTS, RADII, 600, batch=24),
)  # fmt: skip


def scaled(phases: tuple[Phase, ...], total: int | None) -> tuple[Phase, ...]:
    """The phases with their steps (and images) in proportion to a total number of steps; None keeps them."""
    if total is None:
        return phases
    share = total / sum(phase.steps for phase in phases)
    return tuple(
        replace(
            phase,
            steps=max(1, round(phase.steps * share)),
            sizes=tuple((h, w, max(phase.batch, round(n * min(share, 1)))) for h, w, n in phase.sizes),
        )
        for phase in phases
    )


@dataclass(frozen=True)
class Captioned:
    """Images of one size and what is in them.

    images  (n, H, W, 3) uint8 RGB
    present (n, C) bool, which concepts a full caption names
    """

    images: np.ndarray
    present: np.ndarray


def _captioned(seed: int, style: Style, index: int) -> tuple[np.ndarray, np.ndarray]:
    cv2.setNumThreads(1)
    scene = draw_scene(seed, index, style)
    named = {*scene.classes, *scene.backgrounds}
    return scene.image, np.array([concept in named for concept in CONCEPTS])


def draw_phase(phase: Phase, processes: int) -> list[Captioned]:
    """One group of images a size."""
    groups, first = [], 0
    # spawn: a forked child of a process whose OpenMP threads have run may hang.
    with multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else nullcontext() as pool:
        for height, width, count in phase.sizes:
            style = Style((height, height), (width, width), phase.counts, phase.radii, avoid_multiples_of=None)
            draw, indices = partial(_captioned, phase.seed, style), range(first, first + count)
            images, present = zip(*(pool.map(draw, indices, chunksize=64) if pool else map(draw, indices)))
            groups.append(Captioned(np.stack(images), np.stack(present)))
            first += count
    return groups


def as_input(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, CLIP's normalisation; mirrored and tinted at random."""
    mirrored = np.where((rng.random(len(images)) < 0.5)[:, None, None, None], images[:, :, ::-1], images)
    pixels = torch.from_numpy(mirrored).permute(0, 3, 1, 2).float() / 255
    gains = torch.from_numpy(rng.uniform(1 - COLOUR_GAIN, 1 + COLOUR_GAIN, (len(images), 3, 1, 1))).float()
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS["clip"])
    return ((pixels * gains).clamp(max=1) - mean) / deviation


@dataclass(frozen=True)
class Lesson:
    """One batch: images, C one-word captions and one caption about each image.

    images   (B, 3, H, W) float32
    tokens   (C + B, n) int64 and ends (C + B,) int64, as Vocabulary.rows gives them; the one-word captions first
    present  (B, C) bool, what is in the images
    matches  (B, C + B) bool, whether everything that a caption names is in an image
    weights  what each loss counts
    """

    images: Tensor
    tokens: Tensor
    ends: Tensor
    present: Tensor
    matches: Tensor
    weights: Weights

    def to(self, device: torch.device) -> "Lesson":
        tensors = ("images", "tokens", "ends", "present", "matches")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def lesson(
    rng: np.random.Generator, words: Vocabulary, images: np.ndarray, present: np.ndarray, weights: Weights
) -> Lesson:
    """Captions about images (B, H, W, 3) in which is what `present` (B, C) says."""
    named = [content(rng, row) for row in present]
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    tokens, ends = words.rows([template.format(name) for name in CONCEPTS] + [caption(rng, row) for row in named])
    contents = torch.from_numpy(np.concatenate([np.eye(len(CONCEPTS), dtype=bool), np.stack(named)]))
    shown = torch.from_numpy(present)
    matches = ~(contents[None] & ~shown[:, None]).any(-1)
    return Lesson(as_input(images, rng), tokens, ends, shown, matches, weights)


class Lessons:
    """The batches of all phases, one a step, random ones; all chance comes from `rng`, and from it alone."""

    def __init__(self, phases: tuple[Phase, ...], words: Vocabulary, rng: np.random.Generator, processes: int) -> None:
        self.phases, self.words, self.rng, self.processes = phases, words, rng, processes
        self.step, self.queues = 0, list[np.ndarray]()

    def __iter__(self) -> Iterator[Lesson]:
        first = 0
        for phase in self.phases:
            end = first + phase.steps
            groups = draw_phase(phase, self.processes) if self.step < end else []
            if self.step == first:
                self.queues = [np.zeros(0, int) for _ in groups]
            while self.step < end:
                group, taken = self._chosen(groups, phase.batch)
                batch = lesson(self.rng, self.words, group.images[taken], group.present[taken], phase.weights)
                self.step += 1
                yield batch
            first = end

    def _chosen(self, groups: list[Captioned], size: int) -> tuple[Captioned, np.ndarray]:
        """A group, each as often as its share of the images, and (size,) the next of its images in a random order."""
        shares = np.array([len(group.images) for group in groups], float)
        chosen = int(self.rng.choice(len(groups), p=shares / shares.sum()))
        if len(self.queues[chosen]) < size:
            self.queues[chosen] = self.rng.permutation(len(groups[chosen].images))
        taken, self.queues[chosen] = self.queues[chosen][:size], self.queues[chosen][size:]
        return groups[chosen], taken

    def state_dict(self) -> dict[str, Any]:
        """The position: steps, generator, and the images of the phase that are still to come."""
        queues = [queue.tolist() for queue in self.queues]
        return {"step": self.step, "rng": self.rng.bit_generator.state, "queues": queues}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.step, self.rng.bit_generator.state = state["step"], state["rng"]
        self.queues = [np.array(queue, int) for queue in state["queues"]]
