"""The training run: phases of growing images, objects of one scale, one schedule."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toyworld.scenes import Style
from toyworld.spec import TRAINING_SEEDS
from toyworld.training import losses
from toyworld.training.captions import CONCEPTS, TEMPLATES, Vocabulary, caption, content
from toyworld.training.data import Captioned, as_input, batches, draw_captioned
from toyworld.training.model import Architecture, Seen, ToyClip

Report = Callable[[int, dict[str, float]], None]  # step, losses by name
Keep = Callable[[ToyClip, Vocabulary], object]


@dataclass(frozen=True)
class Weights:
    """What each loss counts."""

    cls: float = 0.5
    mean: float = 1.0
    pooled: float = 1.0
    values: float = 1.0
    unnamed: float = 1.0
    affinity: float = 2.0


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
    Phase(TRAINING_SEEDS[0], ((84, 84, 10_000),), (1.0,), (0.34, 0.52), 700, weights=Weights(affinity=1.0)),
    Phase(TRAINING_SEEDS[1], ((144, 144, 6_000),), (0.5, 0.5), (0.2, 0.42), 700, batch=48),
    Phase(TRAINING_SEEDS[2], ((192, 192, 2_000), (156, 216, 1_000), (216, 156, 1_000)), COUNTS, RADII, 350, batch=24),
)  # fmt: skip
LOCAL_BLOCKS = 2
WORD_STEPS, WORD_RATE = 120, 2e-3
PEAK_RATE, FINAL_SHARE, WARM_UP_STEPS = 1e-3, 0.02, 100
WEIGHT_DECAY, GRADIENT_NORM = 0.05, 1.0


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


def draw_phase(phase: Phase, processes: int) -> list[Captioned]:
    """One group of images a size."""
    groups, first = [], 0
    for height, width, count in phase.sizes:
        style = Style((height, height), (width, width), phase.counts, phase.radii, avoid_multiples_of=None)
        groups.append(draw_captioned(phase.seed, first, count, style, processes))
        first += count
    return groups


def rate(step: int, total: int) -> float:
    """Learning rate: linear warm-up, then a cosine down to a small share of the peak."""
    warm = min(WARM_UP_STEPS, total // 10 + 1)
    if step < warm:
        return PEAK_RATE * (step + 1) / warm
    along = (step - warm) / max(1, total - warm)
    return PEAK_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * along)) / 2)


def optimizer_for(model: ToyClip) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    matrices = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embedding" in name]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)


def teach_words(model: ToyClip, words: Vocabulary, rng: np.random.Generator) -> float:
    """Train the text tower alone until captions of different content point in different directions; the last loss.

    A caption's target is the mean of fixed random orthogonal codes of its concepts. Untrained, all captions are alike
    (cosine 0.9), and the image tower sits on a plateau for some 50,000 images before it tells the objects apart.
    """
    codes = torch.linalg.qr(torch.randn(model.text_projection.shape[1], len(CONCEPTS)))[0].T  # (C, E)
    optimizer = torch.optim.AdamW(model.parameters(), lr=WORD_RATE, weight_decay=0.0)
    loss = torch.zeros(())
    for _ in range(WORD_STEPS):
        told = np.eye(len(CONCEPTS), dtype=bool)
        mixed = rng.random((48, len(CONCEPTS))) < 0.2
        told = np.concatenate([told, mixed[mixed.any(1)]])
        features = model.encode_text(*words.rows([caption(rng, row) for row in told]))
        targets = F.normalize(torch.from_numpy(told).float() @ codes, dim=-1)
        loss = (1 - (features * targets).sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def batch_losses(
    model: ToyClip, words: Vocabulary, batch: Captioned, weights: Weights, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Every loss of one batch, unweighted, by the name its weight has. Reads images and words only."""
    texts, contents = batch_captions(batch, rng)
    features = model.encode_text(*words.rows(texts))  # (T, E), the one-word captions first
    present = torch.from_numpy(batch.present)  # (B, C)
    matches = ~(torch.from_numpy(contents)[None] & ~present[:, None]).any(-1)  # (B, T)
    seen = model.visual(as_input(batch.images, rng), maps=weights.affinity > 0)
    return image_losses(seen, features, matches, model.scale()) | patch_losses(
        seen, features[: len(CONCEPTS)], present, model.scale()
    )


def batch_captions(batch: Captioned, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """C one-word captions and one about each image; the (C + B, C) bool concepts they tell."""
    told = [content(rng, row) for row in batch.present]
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    texts = [template.format(name) for name in CONCEPTS] + [caption(rng, row) for row in told]
    return texts, np.concatenate([np.eye(len(CONCEPTS), dtype=bool), np.stack(told)])


def image_losses(seen: Seen, features: Tensor, matches: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Class token and mean patch against all captions: features (T, E), matches (B, T)."""
    return {
        "cls": losses.contrast(scale * losses.cosines(seen.image, features), matches),
        "mean": losses.contrast(scale * losses.cosines(seen.patches.mean(1), features), matches),
    }


def patch_losses(seen: Seen, concepts: Tensor, present: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Patches against the one-word captions: concepts (C, E), present (B, C).

    `unnamed` is asked of the first blocks only, whose values see little more than their own patch. Asked of the last
    patch tokens it taught them to copy the image's labels from each other: CAM 45 instead of 54, refined 33.
    `affinity` is asked of all blocks but the last, which has no attention of its own.
    """

    def pooled_contrast(cosines: Tensor) -> Tensor:
        return losses.contrast(scale * losses.pooled(cosines), present)

    cosines = torch.stack([losses.cosines(values, concepts) for values in seen.values])  # (L, B, N, C)
    found = {
        "pooled": pooled_contrast(losses.cosines(seen.patches, concepts)),
        "values": torch.stack([pooled_contrast(block) for block in cosines]).mean(),
        "unnamed": torch.stack([losses.unnamed(scale * block, present) for block in cosines[:LOCAL_BLOCKS]]).mean(),
    }
    if seen.attention:
        posteriors = (losses.SHARPNESS * scale * cosines.mean(0)).detach().softmax(-1)
        found["affinity"] = torch.stack([losses.affinity(a, posteriors) for a in seen.attention[:-1]]).mean()
    return found


def train(
    sizes: Architecture, phases: tuple[Phase, ...], seed: int, processes: int, report: Report, keep: Keep
) -> tuple[ToyClip, Vocabulary]:
    """Train from scratch; calls `report` after every step and `keep` after every phase.

    The same seed gives the same weights on the same machine.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    words = Vocabulary()
    model = ToyClip(sizes, len(words.token_ids))
    teach_words(model, words, rng)
    optimizer = optimizer_for(model)
    total = sum(phase.steps for phase in phases)
    ends = set(itertools.accumulate(phase.steps for phase in phases))
    for step, (phase, batch) in enumerate(_all_batches(phases, rng, processes)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, total)
        found = batch_losses(model, words, batch, phase.weights, rng)
        loss = torch.stack([getattr(phase.weights, name) * value for name, value in found.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        model.cap_scale()
        report(step, {name: value.item() for name, value in found.items()} | {"scale": model.scale().item()})
        if step + 1 in ends:
            keep(model, words)
    return model, words


def _all_batches(
    phases: tuple[Phase, ...], rng: np.random.Generator, processes: int
) -> Iterator[tuple[Phase, Captioned]]:
    for phase in phases:
        endless = batches(rng, draw_phase(phase, processes), phase.batch)
        for _ in range(phase.steps):
            yield phase, next(endless)
