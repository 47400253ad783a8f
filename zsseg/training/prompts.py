"""How prompts are learned (CoOp: Zhou et al., IJCV 2022; Xu et al., ECCV 2022): learner, objective, validation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip.learned_prompts import encode_frames, frames, write_learned_prompts
from clip.load import Clip
from clip.text import mean_of_groups
from clip.tokenizer import SimpleTokenizer
from common.errors import UserError
from training import loop
from training.batches import Batches
from training.board import Board
from training.pairs import Pair
from training.ranks import Ranks
from training.state import State, fresh_state
from zsseg.accuracy import accuracies, hits
from zsseg.training.prompt_regions import Region, RegionBatch, RegionSamples, collate, held_out_regions
from zsseg.training.prompt_settings import MOMENTUM, PromptSettings

PROMPTS = "prompts.safetensors"
FIRST_DEVIATION = 0.02  # of the random vectors that a run starts from
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PromptLearner(nn.Module):
    """Images of regions (B, 3, H, W) to logits (B, C) of the names; only the vectors around the names learn."""

    def __init__(
        self, clip: Clip, names: Sequence[Sequence[str]], prefix: Tensor, suffix: Tensor, logit_scale: float = 100.0
    ) -> None:
        """`prefix` (P, D) and `suffix` (S, D) are the first vectors. Raises UserError for a name that is too long."""
        super().__init__()
        self.logit_scale = logit_scale or float(clip.logit_scale)
        self.clip, self.names = clip, names  # frozen, and no part of checkpoints
        device = clip.device
        self.prefix_prompt, self.suffix_prompt = (
            nn.Parameter(vectors.to(device), requires_grad=len(vectors) > 0) for vectors in (prefix, suffix)
        )
        self.frames = frames(clip, [name for group in names for name in group], len(prefix), len(suffix))

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = F.normalize(self.clip.model.encode_image(images, "bicubic").float(), dim=-1)
        return self.logit_scale * features @ self.texts().T

    def texts(self) -> Tensor:
        """(C, E) unit embeddings of the names."""
        return mean_of_groups(encode_frames(self.clip, self.frames, self.prefix_prompt, self.suffix_prompt), self.names)


def learner(clip: Clip, settings: PromptSettings) -> PromptLearner:
    """A learner with the clip's learned prompts, with the embeddings of words, or with random vectors."""
    if clip.learned is not None:
        vectors = (clip.learned.prefix, clip.learned.suffix)
        return PromptLearner(clip, settings.names, *vectors, settings.logit_scale)
    generator = torch.Generator().manual_seed(settings.seed)
    first = torch.randn(settings.prefix + settings.suffix, clip.texts.width, generator=generator) * FIRST_DEVIATION
    prefix, suffix = first.split([settings.prefix, settings.suffix])
    if settings.first_words:
        prefix = clip.texts.token_embeddings()[SimpleTokenizer().encode(settings.first_words)].cpu().float()
    return PromptLearner(clip, settings.names, prefix, suffix, settings.logit_scale)


def objective(network: nn.Module, batch: RegionBatch) -> dict[str, Tensor]:
    """The mean cross-entropy of the regions."""
    return {"loss": F.cross_entropy(network(batch.images), batch.classes)}


@dataclass(frozen=True)
class HeldOut:
    """Images and masks to validate on.

    names  of all classes, each with its prompts
    sets   indices of classes by name of the set, for the accuracies
    """

    pairs: Sequence[Pair]
    labels: Sequence[str]
    names: Sequence[Sequence[str]]
    sets: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Job:
    """One run: the balanced regions, the class that each label is, and the number of labels of the masks.

    background  1 where label 0 is the background
    """

    settings: PromptSettings
    regions: Sequence[Region]
    classes: dict[int, int]
    num_labels: int
    background: int
    out: Path
    held_out: HeldOut | None = None
    save_every: int = 1000
    validate_every: int = 1000
    keep: int = 2
    readers: int = 0


@dataclass
class Report:
    """The result of a run beside its log: by id why an image could not be used, and the last accuracies."""

    failures: dict[str, str] = field(default_factory=dict)
    accuracies: dict[str, float] = field(default_factory=dict)


def start(job: Job, network: PromptLearner, ranks: Ranks) -> State:
    """The state before the first iteration."""
    settings = job.settings
    samples = RegionSamples(job.regions, job.classes, job.num_labels, settings)
    on_gpu = ranks.device.type == "cuda"
    data = Batches(samples, collate, settings.batch, ranks.index, ranks.count, job.readers, on_gpu)
    return fresh_state(network, optimizer_for(network, settings), data, DTYPES[settings.precision])


def optimizer_for(network: nn.Module, settings: PromptSettings) -> torch.optim.Optimizer:
    """SGD with momentum on the vectors."""
    groups = loop.parameter_groups(network, lambda name, parameter: (1.0, settings.weight_decay))
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM)


def training_of(job: Job, ranks: Ranks, report: Report) -> loop.Training:
    """The run as the loop takes it."""
    settings = job.settings

    def prepare(batches: Sequence[RegionBatch], iteration: int) -> Sequence[RegionBatch]:
        for batch in batches:
            report.failures.update(batch.problems)
        return batches

    return loop.Training(
        objective,
        settings.rate,
        settings.max_iters or 0,
        job.out,
        settings.record(),
        settings.seed,
        clip_norm=settings.clip_norm or None,
        dtype=DTYPES[settings.precision],
        save_every=job.save_every,
        validate_every=job.validate_every,
        keep=job.keep,
        prepare=prepare,
        validate=partial(_validate, job, ranks, report),
    )


def train(job: Job, state: State, ranks: Ranks) -> Report:
    """Go on from the state to the last iteration, then write the prompts; signals as in training.loop.train."""
    report, network = Report(), state.network
    loop.train(training_of(job, ranks, report), state, ranks)
    if ranks.first:
        assert isinstance(network, PromptLearner)
        about = {"dataset": job.settings.dataset, "iterations": state.iteration, "model": network.clip.fingerprint}
        write_learned_prompts(job.out / PROMPTS, network.clip, network.prefix_prompt, network.suffix_prompt, about)
    ranks.wait()
    return report


@torch.no_grad()
def score(job: Job, held_out: HeldOut, network: PromptLearner, ranks: Ranks) -> tuple[dict[str, float], dict[str, str]]:
    """Accuracies on all classes of all images, each on one rank; and by id what could not be read on this one."""
    prefix, suffix = network.prefix_prompt.detach(), network.suffix_prompt.detach()
    texts = PromptLearner(network.clip, held_out.names, prefix, suffix).texts()
    failures, labels = {}, range(job.background, job.background + len(held_out.names))
    totals = np.zeros((3, len(held_out.names)), np.int64)
    for pair in held_out.pairs[ranks.index :: ranks.count]:
        try:
            batch = held_out_regions(pair, job.num_labels, labels, job.settings.expand).to(ranks.device)
        except UserError as error:
            failures[pair.id] = str(error)
            continue
        features = F.normalize(network.clip.model.encode_image(batch.images, "bicubic").float(), dim=-1)
        totals += hits((features @ texts.T).cpu().numpy(), (batch.classes - job.background).cpu().numpy())
    totals = ranks.sum(torch.from_numpy(totals)).cpu().numpy()
    return accuracies(totals, held_out.labels, held_out.sets), failures


def _validate(job: Job, ranks: Ranks, report: Report, network: Any, iteration: int, board: Board | None) -> None:
    if job.held_out is None:
        return
    report.accuracies, failures = score(job, job.held_out, network, ranks)
    report.failures.update(failures)
    if board:
        shown = [f"acc_top1_{part}{name}" for name in job.held_out.sets for part in ("", "w/o_")]
        shown = ["macc_top1", "macc_top5", "mmacc_top1", *(name for name in shown if name in report.accuracies)]
        board.scored(iteration, {name: report.accuracies[name] for name in shown})
