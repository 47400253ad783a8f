"""How a segmentation network is trained: its objective, its data and its validation, on the loop of training/."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from segmentor import label_sources
from segmentor.augment import HIDDEN, IGNORE
from segmentor.losses import label_counts, label_weights, weighted_cross_entropy
from segmentor.networks import Segmentor, enlarged, norm_parameters
from segmentor.prediction import DTYPES, probabilities
from segmentor.samples import Batch, Batches, Pair, Samples, read_pair
from segmentor.settings import Looks, Settings
from segmentor.validation import Unseen, validate
from segmentor.weights import Description, write_weights
from training import loop
from training.board import Board
from training.optimizers import parameter_groups
from training.ranks import Ranks
from training.state import State, fresh_state

WEIGHTS = "weights.safetensors"
SHOWN = 4  # images whose predictions TensorBoard shows

Sheet = Callable[[list[list[np.ndarray]], tuple[str, ...]], np.ndarray]


@dataclass(frozen=True)
class Job:
    """A run: what for, on what, and where to.

    pairs      images and masks to train on
    unseen     what to validate on, or None
    save_every, validate_every  iterations
    keep       checkpoints that stay
    readers    processes that read and vary images ahead of the network; 0: none
    sheet      draws rows of image (H, W, 3) uint8, mask and prediction (H, W) uint8, given the names of the labels;
               None: no pictures
    """

    settings: Settings
    pairs: Sequence[Pair]
    out: Path
    unseen: Unseen | None = None
    save_every: int = 1000
    validate_every: int = 1000
    keep: int = 2
    readers: int = 0
    sheet: Sheet | None = None

    def describe(self, iterations: int) -> Description:
        """What the weight file says of itself."""
        asked = self.settings
        return Description(
            asked.arch,
            asked.labels,
            asked.views.normalisation,
            iterations,
            asked.head,
            text_width=asked.text_width,
            background=asked.background,
        )


@dataclass
class Report:
    """What a run finds out beside its log: (id, reason) of images that could not be used, the last mIoU."""

    failures: dict[str, str] = field(default_factory=dict)
    miou: float | None = None


def start(job: Job, network: Segmentor, ranks: Ranks) -> State:
    """The state before the first iteration."""
    asked, network = job.settings, network.to(ranks.device)
    samples = Samples(job.pairs, len(asked.labels), asked.views, asked.seed, asked.teaching.hidden)
    data = Batches(samples, asked.batch, ranks.index, ranks.count, job.readers, ranks.device.type == "cuda")
    return fresh_state(network, optimizer_for(network, asked), data, DTYPES[asked.precision], asked.ema)


def optimizer_for(network: nn.Module, asked: Settings) -> torch.optim.Optimizer:
    """AdamW and SGD as SegFormer and DeepLab use them.

    Parameters with `head` in their name learn faster. AdamW does not decay normalisation layers; SGD decays all.
    """
    norms = norm_parameters(network) if asked.optimizer == "adamw" else set()

    def kind(name: str, _: nn.Parameter) -> tuple[float, float]:
        return asked.head_factor if "head" in name else 1.0, 0.0 if name in norms else asked.weight_decay

    groups = parameter_groups(network, kind)
    if asked.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9)


def train(job: Job, state: State, ranks: Ranks, source: label_sources.Source = label_sources.masks) -> Report:
    """Go on from the state to the last iteration, then write the weights; signals as in training.loop.train.

    source  where the labels of a step come from
    """
    asked, report = job.settings, Report()
    dense = Dense(asked, source, ranks, report)
    loop.train(
        loop.Training(
            dense.loss,
            asked.rate,
            asked.max_iters,
            job.out,
            asked.record(),
            asked.seed,
            asked.accumulate,
            dtype=DTYPES[asked.precision],
            save_every=job.save_every,
            validate_every=job.validate_every,
            keep=job.keep,
            prepare=dense.prepare,
            validate=partial(_validate, job, ranks, report),
        ),
        state,
        ranks,
    )
    if ranks.first:
        write_weights(job.out / WEIGHTS, state.result.state_dict(), job.describe(state.iteration))
    ranks.wait()
    return report


@dataclass(frozen=True)
class Dense:
    """Cross-entropy of every pixel, weighted by the labels of the whole step, on all ranks."""

    settings: Settings
    source: label_sources.Source
    ranks: Ranks
    report: Report

    def prepare(self, batches: Sequence[Batch], iteration: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels and weights of the labels of each batch.

        The weights sum up to 1 over the step; the loop takes a mean, for which they are multiplied here.
        """
        asked, classes = self.settings, len(self.settings.labels)
        labels = [self.source(batch, iteration) for batch in batches]
        counts = self.ranks.sum(torch.stack([label_counts(each, classes) for each in labels]).sum(0))
        weights = label_weights(counts, asked.loss, asked.loss_over) * (len(batches) * self.ranks.count)
        for batch in batches:
            self.report.failures.update(batch.problems)
        return [(batch.images, truth, weights) for batch, truth in zip(batches, labels)]

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """The objective."""
        images, labels, weights = batch
        return {"loss": weighted_cross_entropy(enlarged(network(images), images), labels, weights)}


# --- validation -----------------------------------------------------------------------------------


def _validate(job: Job, ranks: Ranks, report: Report, network: Any, iteration: int, board: Board | None) -> None:
    asked = job.settings
    looks = Looks(asked.views.normalisation, resize=asked.views.resize)
    training = network.training
    network.eval()
    if job.unseen is not None:
        scores, failures = validate(network, job.unseen, len(asked.labels), looks, ranks)
        report.miou = scores.miou
        report.failures.update(failures)
        if board:
            names = ("miou", "pixel_accuracy", "mean_accuracy")
            board.scored(iteration, {name: getattr(scores, name) for name in names})
    if board and job.sheet:
        board.picture(iteration, "predictions", job.sheet(list(_rows(job, network, looks)), asked.labels))
    network.train(training)


def _rows(job: Job, network: nn.Module, looks: Looks) -> Iterator[list[np.ndarray]]:
    """Image, mask and prediction of the first images; what is hidden in a mask is shown as 255."""
    for pair in job.pairs[:SHOWN]:
        try:
            image, mask = read_pair(pair, len(job.settings.labels), job.settings.teaching.hidden)
        except UserError:  # reported when its turn comes
            continue
        mask = np.where(mask == HIDDEN, np.uint8(IGNORE), mask)
        yield [image, mask, probabilities(network, image, looks).argmax(0).astype(np.uint8)]
