"""How a MaskFormer is trained on the masks of seen classes: its objective and its validation, on training's loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset.spec import IGNORE_INDEX, DatasetSpec
from pipeline.stages.held_out import HeldOut, score
from pipeline.steps.scores import SplitScores, scores_of, split_scores
from training import loop
from training.batches import Batches
from training.board import Board
from training.pairs import Pair
from training.ranks import Ranks
from training.state import State, fresh_state
from zsseg.checkpoint import About, write_checkpoint
from zsseg.inference import find_queries, labels_at, normalised, resized
from zsseg.maskformer import MaskFormer
from zsseg.training.augment import Views
from zsseg.training.losses import NOTHING, Targets, matched_losses, targets_of, weighted_sum
from zsseg.training.optimizer import optimizer_for
from zsseg.training.samples import Batch, Samples, collate, label_table
from zsseg.training.settings import Settings

WEIGHTS = "weights.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Predict = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 RGB to (H, W) uint8 mask values


@dataclass(frozen=True)
class Job:
    """One training run.

    classes    indices of the classes of `spec` that are trained on
    text       (C, D) unit text embeddings of these, every: (K, D) of all classes of the data set
    pairs      images and masks to train on; masks hold the data set's values
    held_out   what to validate on, or None
    save_every, validate_every  iterations
    keep       checkpoints that stay
    readers    processes that read and vary images ahead of the network; 0: none
    """

    settings: Settings
    spec: DatasetSpec
    classes: Sequence[int]
    text: Tensor
    every: Tensor
    pairs: Sequence[Pair]
    out: Path
    held_out: HeldOut | None = None
    save_every: int = 1000
    validate_every: int = 1000
    keep: int = 2
    readers: int = 0

    def about(self, iterations: int) -> About:
        """What the weight file says of the network."""
        settings = self.settings
        return About(settings.sizes, settings.names, settings.words, iterations, settings.short, settings.longest)


@dataclass
class Report:
    """The result of a run beside its log: by id why an image could not be used, and the last scores."""

    failures: dict[str, str] = field(default_factory=dict)
    scores: SplitScores | None = None


def start(job: Job, network: MaskFormer, ranks: Ranks) -> State:
    """The state before the first iteration."""
    settings, network = job.settings, network.to(ranks.device)
    network.criterion.matcher.cost_class = settings.class_weight
    for name, parameter in network.named_parameters():
        if "prompt_learner." in name or name.startswith("_region_clip_adapter."):
            parameter.requires_grad_(False)  # no loss depends on it
    views = Views(settings.sides, settings.longest, settings.crop, settings.flip, settings.colours)
    table = label_table(job.spec, job.classes, NOTHING if settings.hidden == "ignored" else IGNORE_INDEX)
    samples = Samples(job.pairs, job.spec.num_labels, table, views, settings.seed)
    data = Batches(samples, collate, settings.batch, ranks.index, ranks.count, job.readers, ranks.device.type == "cuda")
    optimizer = optimizer_for(network, settings.backbone_lr, settings.weight_decay)
    return fresh_state(network, optimizer, data, DTYPES[settings.precision], settings.ema)


Prepared = tuple[Tensor, list[Targets], float]  # normalised images, targets, masks that losses are divided by


def train(job: Job, state: State, ranks: Ranks) -> Report:
    """Go on from the state to the last iteration, then write the weights; signals as in training.loop.train."""
    settings, report, network = job.settings, Report(), state.network
    assert isinstance(network, MaskFormer)
    text, criterion = job.text.to(ranks.device), network.criterion

    def prepare(batches: Sequence[Batch], iteration: int) -> list[Prepared]:
        """The losses of masks are divided by the mean number of masks of a batch, over all ranks."""
        ignored = settings.hidden == "ignored"
        targets = [[targets_of(labels.long(), ignored) for labels in batch.labels] for batch in batches]
        number = text.new_tensor(sum(len(target.classes) for batch in targets for target in batch))
        counted = max(1.0, float(ranks.sum(number)) / (ranks.count * len(batches)))
        for batch in batches:
            report.failures.update(batch.problems)
        return [(normalised(batch.images), of_batch, counted) for batch, of_batch in zip(batches, targets)]

    def objective(model: nn.Module, batch: Prepared) -> dict[str, Tensor]:
        images, targets, counted = batch
        predictions = model(images, text)
        with torch.autocast(images.device.type, enabled=False):
            losses = matched_losses(criterion, predictions, targets, counted)
            return {"loss": weighted_sum(losses, settings.class_weight), **losses}

    training = loop.Training(
        objective,
        settings.rate,
        settings.max_iters,
        job.out,
        settings.record(),
        settings.seed,
        settings.accumulate,
        clip_norm=settings.clip_norm or None,
        dtype=DTYPES[settings.precision],
        save_every=job.save_every,
        validate_every=job.validate_every,
        keep=job.keep,
        prepare=prepare,
        validate=partial(_validate, job, ranks, report),
    )
    loop.train(training, state, ranks)
    if ranks.first:
        assert isinstance(state.result, MaskFormer)
        write_checkpoint(job.out / WEIGHTS, state.result, job.about(state.iteration))
    ranks.wait()
    return report


def network_alone(network: MaskFormer, spec: DatasetSpec, text: Tensor, short: int, longest: int) -> Predict:
    """The labels of the network without CLIP's view of its regions.

    text  (K, D) unit embeddings of the classes of the data set
    With a background, a pixel is background where the best class has less than half of the masks' probability.
    """

    def predict(image: np.ndarray) -> np.ndarray:
        found = find_queries(network, resized(image, short, longest), text)
        scores = torch.einsum("qc,qhw->chw", found.probabilities, found.masks())
        if spec.has_background:
            scores = torch.cat([scores.new_full((1, *scores.shape[1:]), 0.5), scores])
        return labels_at(scores, (image.shape[0], image.shape[1]))

    return predict


def score_all(held_out: HeldOut, spec: DatasetSpec, predict: Predict, ranks: Ranks) -> tuple[Any, dict[str, str]]:
    """Scores of all images over all ranks, and by id why an image of this rank could not be scored."""
    ids = held_out.ids[ranks.index :: ranks.count]
    confusion, failures = score(ids, held_out.images, held_out.truth, spec.num_labels, predict)
    return scores_of(ranks.sum(torch.from_numpy(confusion)).cpu().numpy(), "union"), dict(failures)


def _validate(job: Job, ranks: Ranks, report: Report, network: Any, iteration: int, board: Board | None) -> None:
    if job.held_out is None:
        return
    settings, training = job.settings, network.training
    network.eval()
    text = job.every.to(ranks.device)
    predict = network_alone(network, job.spec, text, settings.short, settings.longest)
    scores, failures = score_all(job.held_out, job.spec, predict, ranks)
    network.train(training)
    report.failures.update(failures)
    report.scores = split_scores(scores.iou, job.spec.unseen_labels)
    if board:
        split = {f"miou_{name}": value for name, value in vars(report.scores).items() if value is not None}
        board.scored(iteration, {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy, **split})
