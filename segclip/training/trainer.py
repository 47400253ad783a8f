"""How SegCLIP is pretrained: its data, its optimiser and its validation, on the loop of training/."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip.load import Clip
from common.errors import UserError
from common.files import atomic_write
from segclip.load import begin_from
from segclip.network import LAST_BLOCKS, SegClip
from segclip.training.captions import Pair
from segclip.training.objective import Pretraining, Step, draw_noise, rate_and_decay
from segclip.training.samples import Batch, Samples, Views, collate, normalised
from segclip.training.settings import Settings
from segclip.training.shards import Shard, ShardBatches
from training import loop
from training.batches import Batches
from training.board import Board
from training.ranks import Ranks
from training.state import Data, State, fresh_state

WEIGHTS = "segclip.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST_SKIPPED = 20  # steps in a row whose loss is no number, after which the run ends

# A network in evaluation mode to scores by name, and what could not be scored; every process calls it.
Validate = Callable[[SegClip], tuple[dict[str, float], dict[str, str]]]


@dataclass(frozen=True)
class Job:
    """One pretraining.

    pairs, maps  images with captions, and the folder of their maps of superpixels (None: made when they are needed)
    shards       or tar files in their place
    save_every, validate_every  iterations
    keep         checkpoints that stay
    readers      processes that read ahead of the network; 0: none
    """

    settings: Settings
    out: Path
    pairs: Sequence[Pair] = ()
    maps: Path | None = None
    shards: Sequence[Shard] = ()
    validate: Validate | None = None
    save_every: int = 1000
    validate_every: int = 1000
    keep: int = 2
    readers: int = 0


@dataclass
class Report:
    """The result of a run beside its log: by name why a sample could not be used, and the last scores."""

    failures: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


def begin(clip: Clip, settings: Settings) -> SegClip:
    """The network before the first iteration."""
    generator, blocks = torch.Generator().manual_seed(settings.seed), len(clip.visual.transformer.resblocks)
    last = blocks - settings.first_stage if settings.first_stage else LAST_BLOCKS
    return begin_from(clip, generator, settings.masked, last, settings.groups)


def start(job: Job, network: SegClip, ranks: Ranks) -> State:
    """The state before the first iteration."""
    settings, pin = job.settings, ranks.device.type == "cuda"
    views = Views.of(settings, network.clip.visual.conv1.kernel_size[0])
    if job.shards:
        data: Data = ShardBatches(job.shards, views, settings, ranks.index, job.readers, pin)
    else:
        samples = Samples(job.pairs, views, settings, job.maps)
        data = Batches(samples, collate, settings.batch, ranks.index, ranks.count, job.readers, pin)
    if not settings.epoch:
        together = f"{settings.batch} in each of {ranks.count} processes" if ranks.count > 1 else settings.batch
        raise UserError(f"--batch_size {settings.batch}: {settings.pairs} captions are fewer than a batch ({together})")
    learning = Pretraining(network.to(ranks.device), settings, ranks)
    return fresh_state(learning, optimizer_for(learning, settings), data, DTYPES[settings.precision])


def optimizer_for(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW as published; the loop sets the rates."""
    groups = loop.parameter_groups(network, rate_and_decay(settings))
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=True)


def train(job: Job, state: State, ranks: Ranks) -> Report:
    """Go on from the state to the last iteration, then write the weights; signals as in training.loop.train.

    Raises StopRun when the losses are no numbers again and again.
    """
    settings, report, learning = job.settings, Report(), state.network
    assert isinstance(learning, Pretraining)
    network = learning.network
    groups = len(network.clip.visual.transformer.semantic_layer2.semantic_center)

    def prepare(batches: Sequence[Batch], iteration: int) -> list[Step]:
        """Normalised images, and fresh noise: the loop has seeded PyTorch's generator for the iteration and rank."""
        for batch in batches:
            report.failures.update(batch.problems)
        return [
            Step(
                normalised(batch.images),
                batch.tokens,
                batch.ids,
                draw_noise(len(batch.images), groups, batch.ids.shape[1], ranks.device),
            )
            for batch in batches
        ]

    def validate(_learning: nn.Module, iteration: int, board: Board | None) -> None:
        if job.validate is None:
            return
        was_training = network.training
        network.eval()
        report.scores, failures = job.validate(network)
        network.train(was_training)
        report.failures.update(failures)
        if board:
            board.scored(iteration, report.scores)

    training = loop.Training(
        lambda model, step: model(step),
        settings.rate,
        settings.iterations,
        job.out,
        settings.record(),
        settings.seed,
        settings.accumulate,
        clip_norm=settings.clip_norm or None,
        most_skipped=MOST_SKIPPED,
        dtype=DTYPES[settings.precision],
        save_every=job.save_every,
        validate_every=job.validate_every,
        keep=job.keep,
        prepare=prepare,
        after_step=learning.cap_scale,
        validate=validate,
    )
    loop.train(training, state, ranks)
    if ranks.first:
        write_weights(job.out / WEIGHTS, network)
    ranks.wait()
    return report


def write_weights(path: Path, network: SegClip) -> None:
    """Write the weights under the names of the published checkpoint, as safetensors, whole or not at all."""
    from safetensors.torch import save

    tensors: dict[str, Any] = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_write(path) as stream:
        stream.write(save(tensors))
