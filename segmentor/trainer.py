"""The training loop: steps, checkpoints, validation."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from segmentor import label_sources, signals
from segmentor.augment import HIDDEN, IGNORE
from segmentor.board import LOG, TENSORBOARD, Board
from segmentor.losses import label_counts, label_weights, weighted_cross_entropy
from segmentor.networks import enlarged
from segmentor.optimizers import set_rate
from segmentor.prediction import PRECISIONS, Looks, probabilities
from segmentor.ranks import Ranks
from segmentor.samples import Batch, Deal, Pair, Samples, batches, chance, read_pair
from segmentor.schedule import Schedule
from segmentor.settings import Settings
from segmentor.state import State, checkpoints, write_checkpoint
from segmentor.validation import Unseen, validate
from segmentor.weights import Description, write_weights

CHECKPOINTS, WEIGHTS = "checkpoints", "weights.safetensors"
SHOWN = 4  # images whose predictions TensorBoard shows


@dataclass(frozen=True)
class Job:
    """A run: what for, on what, and where to.

    pairs      images and masks to train on
    unseen     what to validate on, or None
    save_every, validate_every  iterations
    keep       checkpoints that stay
    readers    processes that read and vary images ahead of the network; 0: none
    """

    settings: Settings
    pairs: Sequence[Pair]
    out: Path
    unseen: Unseen | None = None
    save_every: int = 1000
    validate_every: int = 1000
    keep: int = 2
    readers: int = 0

    @property
    def schedule(self) -> Schedule:
        asked = self.settings
        return Schedule(asked.lr, asked.max_iters, asked.power, asked.min_lr, asked.warmup)

    @property
    def deal(self) -> Deal:
        return Deal(self.settings.batch, self.settings.accumulate, self.settings.ranks)

    @property
    def folder(self) -> Path:
        """Where the checkpoints lie."""
        return self.out / CHECKPOINTS

    def describe(self, iterations: int) -> Description:
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
    """What the run has to tell besides its log: (id, reason) of images that could not be used, the last mIoU."""

    failures: dict[str, str] = field(default_factory=dict)
    miou: float | None = None


def train(job: Job, state: State, ranks: Ranks, source: label_sources.Source = label_sources.masks) -> Report:
    """Go on from the state to the last iteration, then write the weights.

    source  where the labels of a step come from
    Ctrl-C and SIGTERM end the run after the step at work: a checkpoint is written, then KeyboardInterrupt is raised.
    """
    model, report = ranks.wrapped(state.network), Report()
    model.train()
    with ExitStack() as around:
        asked = around.enter_context(signals.waiting())
        board = around.enter_context(Board(job.out, state.iteration, job.settings.max_iters)) if ranks.first else None
        for parts in _steps(job, state, ranks):
            rate = job.schedule.rate(state.iteration)
            loss = step(job.settings, state, model, parts, source, rate, ranks)
            state.iteration += 1
            told = ranks.sum(torch.stack([loss, loss.new_tensor(float(asked.number > 0))]))
            if board:
                board.step(state.iteration, told[0], rate)
            for part in parts:
                report.failures.update(part.problems)
            stopped = bool(asked.number) if ranks.count == 1 else bool(told[1])
            _between(job, state, ranks, board, report, stopped)
            if stopped:
                raise asked.end(asked.number)
    if ranks.first:
        write_weights(job.out / WEIGHTS, result(state), job.describe(state.iteration))
    ranks.wait()
    return report


def forget(out: Path) -> None:
    """Remove what an earlier run wrote into its folder, and nothing else."""
    events = (out / TENSORBOARD).glob("events.out.tfevents.*")
    for path in [*checkpoints(out / CHECKPOINTS), *events, out / LOG, out / WEIGHTS]:
        path.unlink(missing_ok=True)


def result(state: State) -> dict[str, Tensor]:
    """The tensors that the run is for: the running mean where there is one."""
    return state.average.weights if state.average else state.network.state_dict()


def _steps(job: Job, state: State, ranks: Ranks) -> Iterator[list[Batch]]:
    """The batches of one iteration after the other, on the device."""
    asked = job.settings
    samples = Samples(job.pairs, len(asked.labels), asked.views, asked.seed, asked.teaching.hidden)
    pin = ranks.device.type == "cuda"
    found = batches(samples, job.deal, ranks.index, state.iteration, asked.max_iters, job.readers, pin)
    while parts := [batch.to(ranks.device) for batch in islice(found, asked.accumulate)]:
        yield parts


def step(
    settings: Settings,
    state: State,
    model: nn.Module,
    parts: Sequence[Batch],
    source: label_sources.Source,
    rate: float,
    ranks: Ranks,
) -> Tensor:
    """Change the weights once; this rank's share of the loss, without gradients. The shares sum up to the loss.

    model  the network as `Ranks.wrapped` gave it
    """
    torch.manual_seed(chance(settings.seed, state.iteration, ranks.index))  # dropout and its like
    labels = [source(part, state.iteration) for part in parts]
    classes, total = len(settings.labels), torch.zeros((), device=ranks.device)
    counts = ranks.sum(torch.stack([label_counts(each, classes) for each in labels]).sum(0))
    weights = label_weights(counts, settings.loss, settings.loss_over)
    set_rate(state.optimizer, rate)
    dtype = PRECISIONS[settings.precision]
    for index, (part, truth) in enumerate(zip(parts, labels)):
        last = index + 1 == len(parts)
        with nullcontext() if last or ranks.count == 1 else model.no_sync():  # type: ignore[operator]
            with torch.autocast(ranks.device.type, dtype, enabled=dtype != torch.float32):
                scores = model(part.images)
            loss = weighted_cross_entropy(enlarged(scores, part.images), truth, weights)
            state.scaler.scale(loss * ranks.count).backward()  # gradients are averaged over ranks, not summed
        total += loss.detach()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    if state.average:
        state.average.update(state.network)
    return total


# --- between steps --------------------------------------------------------------------------------


def _between(job: Job, state: State, ranks: Ranks, board: Board | None, report: Report, stopped: bool) -> None:
    """A validation and a checkpoint where they are due; a run that was asked to end is not validated any more."""
    end = state.iteration == job.settings.max_iters
    if (state.iteration % job.validate_every == 0 or end) and not stopped:
        with state.average.inside(state.network) if state.average else nullcontext():
            _validate(job, state, ranks, board, report)
    if state.iteration % job.save_every == 0 or end or stopped:
        if ranks.first:
            if board:
                board.flush()  # the log reaches at least as far as the checkpoint
            write_checkpoint(job.folder, state, job.settings, job.keep)
        ranks.wait()


def _validate(job: Job, state: State, ranks: Ranks, board: Board | None, report: Report) -> None:
    views = job.settings.views
    if job.unseen is not None:
        labels = len(job.settings.labels)
        found = validate(state.network, job.unseen, labels, views.normalisation, ranks, views.resize)
        report.miou = found.scores.miou
        report.failures.update(found.failures)
        if board:
            board.scored(state.iteration, found.scores)
    if board:
        looks = Looks(views.normalisation, ranks.device, resize=views.resize)
        board.pictures(state.iteration, list(_rows(job, state, looks)), job.settings.labels)


def _rows(job: Job, state: State, looks: Looks) -> Iterator[list[np.ndarray]]:
    """Image, mask and prediction of the first images; what is hidden in a mask is shown as 255."""
    training = state.network.training
    state.network.eval()
    for pair in job.pairs[:SHOWN]:
        try:
            image, mask = read_pair(pair, len(job.settings.labels), job.settings.teaching.hidden)
        except UserError:  # told when its turn comes
            continue
        mask = np.where(mask == HIDDEN, np.uint8(IGNORE), mask)
        yield [image, mask, probabilities(state.network, image, looks).argmax(0).astype(np.uint8)]
    state.network.train(training)
