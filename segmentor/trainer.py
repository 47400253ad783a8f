"""How a segmentation network is trained: its objective, its data and its validation, on the loop of training/."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from pipeline.stages.held_out import HeldOut, score
from pipeline.steps.scores import Scores, scores_of
from segmentor.augment import HIDDEN, IGNORE
from segmentor.losses import label_counts, label_weights, weighted_cross_entropy
from segmentor.maskclip_plus import Source, masks
from segmentor.networks import Segmentor, enlarged
from segmentor.prediction import DTYPES, probabilities
from segmentor.samples import Batch, Samples, collate, read_pair
from segmentor.settings import InferenceSettings, Settings
from segmentor.weights import Description, write_weights
from training import loop
from training.batches import Batches
from training.board import Board
from training.pairs import Pair
from training.ranks import Ranks
from training.state import State, fresh_state

WEIGHTS = "weights.safetensors"
SHOWN = 4  # images whose predictions TensorBoard shows

Sheet = Callable[[list[list[np.ndarray]], tuple[str, ...]], np.ndarray]


@dataclass(frozen=True)
class Job:
    """One training run.

    pairs      images and masks to train on
    held_out   what to validate on, or None
    save_every, validate_every  iterations
    keep       checkpoints that stay
    readers    processes that read and vary images ahead of the network; 0: none
    sheet      draws rows of image (H, W, 3) uint8, mask and prediction (H, W) uint8, given the names of the labels;
               None: no pictures
    """

    settings: Settings
    pairs: Sequence[Pair]
    out: Path
    held_out: HeldOut | None = None
    save_every: int = 1000
    validate_every: int = 1000
    keep: int = 2
    readers: int = 0
    sheet: Sheet | None = None

    def describe(self, iterations: int) -> Description:
        """The description in the weight file."""
        return Description(
            self.settings.arch,
            self.settings.labels,
            self.settings.views.normalisation,
            iterations,
            self.settings.head,
            text_width=self.settings.text_width,
            background=self.settings.background,
        )


@dataclass
class Report:
    """The result of a run beside its log: by id why an image could not be used, and the last mIoU."""

    failures: dict[str, str] = field(default_factory=dict)
    miou: float | None = None


def start(job: Job, network: Segmentor, ranks: Ranks) -> State:
    """The state before the first iteration."""
    settings, network = job.settings, network.to(ranks.device)
    samples = Samples(job.pairs, len(settings.labels), settings.views, settings.seed, settings.teaching.hidden)
    data = Batches(samples, collate, settings.batch, ranks.index, ranks.count, job.readers, ranks.device.type == "cuda")
    return fresh_state(network, optimizer_for(network, settings), data, DTYPES[settings.precision], settings.ema)


def optimizer_for(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW and SGD as SegFormer and DeepLab use them.

    Parameters with `head` in their name learn faster. AdamW does not decay normalisation layers; SGD decays all.
    """
    adamw = settings.optimizer == "adamw"
    norms = (nn.LayerNorm, nn.GroupNorm, torch.nn.modules.batchnorm._NormBase)
    layers = [layer for layer in network.modules() if adamw and isinstance(layer, norms)]
    plain = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}

    def kind(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        factor = settings.head_factor if "head" in name else 1.0
        return factor, 0.0 if id(parameter) in plain else settings.weight_decay

    groups = loop.parameter_groups(network, kind)
    if adamw:
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9)


def train(job: Job, state: State, ranks: Ranks, source: Source = masks) -> Report:
    """Go on from the state to the last iteration, then write the weights; signals as in training.loop.train.

    The objective is the cross-entropy of every pixel, weighted by the labels of the whole step, on all ranks.
    source  where the labels of a step come from
    """
    settings, report, classes = job.settings, Report(), len(job.settings.labels)

    def prepare(batches: Sequence[Batch], iteration: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels and weights of the labels of each batch.

        The weights sum up to 1 over the step; the loop takes a mean, for which they are multiplied here.
        """
        labels = [source(batch, iteration) for batch in batches]
        counts = ranks.sum(torch.stack([label_counts(part, classes) for part in labels]).sum(0))
        weights = label_weights(counts, settings.loss, settings.loss_over) * (len(batches) * ranks.count)
        for batch in batches:
            report.failures.update(batch.problems)
        return [(batch.images, truth, weights) for batch, truth in zip(batches, labels)]

    def objective(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels, weights = batch
        return {"loss": weighted_cross_entropy(enlarged(network(images), images), labels, weights)}

    training = loop.Training(
        objective,
        settings.rate,
        settings.max_iters,
        job.out,
        settings.record(),
        settings.seed,
        settings.accumulate,
        dtype=DTYPES[settings.precision],
        save_every=job.save_every,
        validate_every=job.validate_every,
        keep=job.keep,
        prepare=prepare,
        validate=partial(_validate, job, ranks, report),
    )
    loop.train(training, state, ranks)
    if ranks.first:
        write_weights(job.out / WEIGHTS, state.result.state_dict(), job.describe(state.iteration))
    ranks.wait()
    return report


def validate(
    network: nn.Module, held_out: HeldOut, num_labels: int, inference: InferenceSettings, ranks: Ranks
) -> tuple[Scores, list[tuple[str, str]]]:
    """Score a network in evaluation mode on all images, each on one rank.

    Returns the scores over all ranks, and (id, reason) of the images of this rank that could not be scored.
    """

    def predict(image: np.ndarray) -> np.ndarray:
        return probabilities(network, image, inference).argmax(0).astype(np.uint8)

    ids = held_out.ids[ranks.index :: ranks.count]
    confusion, failures = score(ids, held_out.images, held_out.truth, num_labels, predict)
    return scores_of(ranks.sum(torch.from_numpy(confusion)).cpu().numpy()), failures


def _validate(job: Job, ranks: Ranks, report: Report, network: Any, iteration: int, board: Board | None) -> None:
    settings = job.settings
    inference = InferenceSettings(settings.views.normalisation, resize=settings.views.resize)
    training = network.training
    network.eval()
    if job.held_out is not None:
        scores, failures = validate(network, job.held_out, len(settings.labels), inference, ranks)
        report.miou = scores.miou
        report.failures.update(failures)
        if board:
            names = ("miou", "pixel_accuracy", "mean_accuracy")
            board.scored(iteration, {name: getattr(scores, name) for name in names})
    if board and job.sheet:
        rows = []
        for pair in job.pairs[:SHOWN]:
            with suppress(UserError):  # reported when its turn comes
                image, mask = read_pair(pair, len(settings.labels), settings.teaching.hidden)
                mask = np.where(mask == HIDDEN, np.uint8(IGNORE), mask)
                rows.append([image, mask, probabilities(network, image, inference).argmax(0).astype(np.uint8)])
        board.picture(iteration, "predictions", job.sheet(rows, settings.labels))
    network.train(training)
