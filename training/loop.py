"""The training loop: steps, validations, checkpoints.

It knows neither images nor texts. What is learned is an objective; data, parameter groups, the schedule and the
validation are arguments too.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import StopRun
from training.board import Board
from training.ranks import Ranks
from training.signals import waiting
from training.state import State, checkpoints, write_checkpoint

_CHANCE = 2  # what a random number is for; users of the same seed take others

Losses = dict[str, Tensor]
Objective = Callable[[nn.Module, Any], Losses]


def parameter_groups(
    network: nn.Module, kind: Callable[[str, nn.Parameter], tuple[float, float]]
) -> list[dict[str, Any]]:
    """The parameters that learn, as the groups of an optimiser.

    kind  the name of a parameter and the parameter, to the factor of its learning rate and its weight decay
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(kind(name, parameter), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    objective       a network and a batch to losses by name: "loss" is minimised, the others are only logged. A step's
                    loss is the mean over its batches and ranks. With several ranks, call the network as a whole
    schedule        0-based iteration to learning rate
    iterations      changes of the weights
    out             folder of checkpoints, log and curves
    settings        what a run must share to be taken up, in values as JSON has them
    accumulate      batches before the weights change
    clip_norm       longest gradient; None: any
    dtype           of the forward pass
    save_every, validate_every  iterations; both also happen after the last one
    keep            checkpoints that stay
    prepare         the batches of a step of this rank, and the 0-based iteration, to what the objective gets
    after_step      called after each change of the weights, before the running mean follows them
    validate        called on every rank with the network to score, the iterations that are done, and the board (None
                    but on the first rank)
    most_skipped    steps in a row whose loss or gradient is not finite, which are skipped; one more ends the run. 0: no
                    step is skipped
    """

    objective: Objective
    schedule: Callable[[int], float]
    iterations: int
    out: Path
    settings: Mapping[str, Any]
    seed: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    dtype: torch.dtype = torch.float32
    save_every: int = 1000
    validate_every: int = 1000
    keep: int = 2
    prepare: Callable[[Sequence[Any], int], Sequence[Any]] = lambda batches, iteration: batches
    after_step: Callable[[], None] = lambda: None
    validate: Callable[[nn.Module, int, Board | None], None] = lambda network, iteration, board: None
    most_skipped: int = 0


def train(training: Training, state: State, ranks: Ranks) -> None:
    """Go on from the state to the last iteration.

    A run that is taken up from a checkpoint ends with the same weights as one without a break, on one machine.
    Ctrl-C and SIGTERM end the run after the step at work: a checkpoint is written, then KeyboardInterrupt is raised.
    Raises StopRun, without a checkpoint, when more than `most_skipped` steps in a row were skipped.
    """
    model, end = ranks.wrapped(state.network), training.iterations
    model.train()
    with ExitStack() as around:
        signal = around.enter_context(waiting())
        board = around.enter_context(closing(Board(training.out, state.iteration, end))) if ranks.first else None
        data = iter(state.data)
        while state.iteration < end:
            batches = [next(data).to(ranks.device) for _ in range(training.accumulate)]
            rate = training.schedule(state.iteration)
            losses = step(training, state, model, batches, rate, ranks)
            state.iteration += 1
            losses, stopped = _gathered(losses, bool(signal.number), ranks)
            if board:
                board.step(state.iteration, {"loss": losses["loss"], "lr": rate, **losses})
            if training.most_skipped and state.in_a_row > training.most_skipped:
                raise StopRun(_diverged(training, state))
            last = state.iteration == end
            if (state.iteration % training.validate_every == 0 or last) and not stopped:
                training.validate(state.result, state.iteration, board)
            if state.iteration % training.save_every == 0 or last or stopped:
                if board:
                    board.flush()  # the log reaches at least as far as the checkpoint
                    write_checkpoint(training.out, state, training.settings, training.keep)
                ranks.wait()
            if stopped:
                raise signal.error()


def step(
    training: Training, state: State, model: nn.Module, batches: Sequence[Any], rate: float, ranks: Ranks
) -> Losses:
    """Change the weights once; the means of the losses over this rank's batches.

    model  the network as `Ranks.wrapped` gave it
    """
    torch.manual_seed(chance(training.seed, state.iteration, ranks.index))  # dropout and its like
    prepared = training.prepare(batches, state.iteration)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    state.optimizer.zero_grad()
    results: list[Losses] = []
    for number, batch in enumerate(prepared, start=1):
        with nullcontext() if number == len(prepared) or ranks.count == 1 else model.no_sync():  # type: ignore[operator]
            with torch.autocast(ranks.device.type, training.dtype, enabled=training.dtype != torch.float32):
                losses = training.objective(model, batch)
            state.scaler.scale(losses["loss"] / len(prepared)).backward()
        results.append({name: value.detach() / len(prepared) for name, value in losses.items()})
    losses = {name: torch.stack([losses[name] for losses in results]).sum(0) for name in results[0]}
    if training.clip_norm is not None or training.most_skipped:
        state.scaler.unscale_(state.optimizer)
        longest = float("inf") if training.clip_norm is None else training.clip_norm
        length = nn.utils.clip_grad_norm_(state.network.parameters(), longest)
        if training.most_skipped and _to_be_skipped(state, losses["loss"], length, ranks):
            return losses
    state.scaler.step(state.optimizer)
    state.scaler.update()
    training.after_step()
    if state.average:
        state.average.update_parameters(state.network)
    return losses


def _to_be_skipped(state: State, loss: Tensor, length: Tensor, ranks: Ranks) -> bool:
    """Whether a loss on any rank, or the gradient, is not a finite number; such steps are counted.

    Gradients that float16 cannot hold are left to the scaler, which skips the step and scales less.
    """
    bad = ~torch.isfinite(loss)
    if not state.scaler.is_enabled():
        bad = bad | ~torch.isfinite(length)
    skip = bool(ranks.sum(bad.float()) > 0)
    if skip and state.scaler.is_enabled():
        state.scaler.update()  # it has seen this step's gradients
    state.skipped, state.in_a_row = state.skipped + skip, (state.in_a_row + 1) * skip
    return skip


def _diverged(training: Training, state: State) -> str:
    """What to say when the losses are no numbers any more."""
    last = checkpoints(training.out)
    where = f"the weights before are in {last[0]}" if last else "no checkpoint was written before"
    return (
        f"the loss was not a finite number in {state.in_a_row} steps in a row, up to step {state.iteration} "
        f"({state.skipped} skipped in all); {where}; try a lower rate, a longer warm-up or float32"
    )


def chance(seed: int, *place: int) -> int:
    """A 64-bit seed for PyTorch that belongs to a place of the run."""
    return int(np.random.SeedSequence([seed, _CHANCE, *place]).generate_state(1, np.uint64)[0])


def _gathered(losses: Losses, stopped: bool, ranks: Ranks) -> tuple[Losses, bool]:
    """The means of the losses over all ranks, and whether one of them was asked to stop."""
    if ranks.count == 1:
        return losses, stopped
    values = [*losses.values(), next(iter(losses.values())).new_tensor(float(stopped))]
    *means, stops = ranks.sum(torch.stack(values)) / ranks.count
    return dict(zip(losses, means)), bool(stops)
