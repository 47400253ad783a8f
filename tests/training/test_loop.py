"""The loop: interrupted runs that end like uninterrupted ones, and a step against its formula."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Terminated
from tests.training.small import ALONE, SETTINGS, Shuffled, network, objective, state, table, training
from training.board import read_log
from training.loop import Training, chance, train
from training.state import State, checkpoints, resume


class Crash(Exception):
    """As if the machine went down."""


def at(iteration: int, what: Callable[[], None]) -> dict[str, Any]:
    """Let something happen in the middle of an iteration."""

    def prepare(batches: Sequence[Tensor], now: int) -> Sequence[Tensor]:
        if now == iteration:
            what()
        return batches

    return {"prepare": prepare}


def crash() -> None:
    raise Crash


def same(one: State, two: State) -> bool:
    """Weights, optimiser and running mean, bit for bit."""

    def tensors(of: State) -> list[Any]:
        moments = [value for each in of.optimizer.state_dict()["state"].values() for value in each.values()]
        return [*of.network.state_dict().values(), *of.result.state_dict().values(), *moments]

    first, second = tensors(one), tensors(two)
    return len(first) == len(second) > 10 and all(
        torch.as_tensor(a).equal(torch.as_tensor(b)) for a, b in zip(first, second)
    )


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the state, of the training
    "mean, dropout": ({"ema": 0.8, "dropout": 0.5}, {}),
    "accumulated": ({"sgd": True}, {"accumulate": 2, "clip_norm": 0.5}),
    "bfloat16": ({}, {"dtype": torch.bfloat16}),
    "float16": ({"dtype": torch.float16, "ema": 0.5}, {"dtype": torch.float16, "clip_norm": 1.0}),
}


@pytest.mark.parametrize(("of_state", "of_training"), OPTIONS.values(), ids=OPTIONS)
def test_a_crashed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, of_state: dict[str, Any], of_training: dict[str, Any]
) -> None:
    """In the middle of an epoch; logs, weights, optimiser and mean are equal bit for bit."""
    uninterrupted = state(**of_state)
    train(training(tmp_path / "whole", **of_training), uninterrupted, ALONE)
    broken = training(tmp_path / "broken", **of_training)
    with pytest.raises(Crash):
        train(training(tmp_path / "broken", **of_training, **at(5, crash)), state(**of_state), ALONE)
    torch.manual_seed(99)
    again = state(**of_state)
    assert resume(broken.out, again, SETTINGS) and again.iteration == 4
    train(broken, again, ALONE)
    assert same(uninterrupted, again)
    logs = [read_log(tmp_path / out) for out in ("whole", "broken")]
    assert logs[0] == logs[1] and [line["iteration"] for line in logs[0]] == list(range(1, 10))
    assert all(line["loss"] > 0 and line["distance"] > 0 for line in logs[0])


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_writes_a_checkpoint_first(tmp_path: Path, number: int, raised: type[BaseException]) -> None:
    before = signal.getsignal(number)
    asked = training(tmp_path, 30, save_every=100, **at(4, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(raised) as found:
        train(asked, state(), ALONE)
    assert found.type is raised and signal.getsignal(number) is before
    again = state()
    assert resume(tmp_path, again, SETTINGS) and again.iteration == 5  # the step at work was finished
    assert len(read_log(tmp_path)) == 5


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    found = []
    for batch, accumulate in ((4, 1), (2, 2)):
        found.append(state(batch, sgd=True))
        found[-1].data.batch = batch  # type: ignore[attr-defined]
        train(training(tmp_path / str(batch), 2, accumulate=accumulate), found[-1], ALONE)
    for one, two in zip(found[0].network.parameters(), found[1].network.parameters()):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_a_clipped_step_as_the_formula_has_it(tmp_path: Path) -> None:
    """SGD with weight decay 0.01, by hand; gradients that were there before do not count."""
    begun, model = state(3, sgd=True), network()
    for parameter in begun.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    batch = next(iter(Shuffled(3)))
    F.mse_loss(model(batch[:, :4]), batch[:, 4:]).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 0.1
    train(training(tmp_path, 1, clip_norm=0.1, schedule=lambda iteration: 0.5), begun, ALONE)
    for before, gradient, after in zip(model.parameters(), gradients, begun.network.parameters()):
        expected = before - 0.5 * (gradient * 0.1 / norm + 0.01 * before)
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)


def test_float16_scales_its_gradients(tmp_path: Path) -> None:
    def small(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": objective(model, batch)["loss"] / 1000}

    begun = state(dtype=torch.float16)
    assert begun.scaler.is_enabled() and begun.scaler.get_scale() > 1
    train(training(tmp_path, 3, dtype=torch.float16, objective=small), begun, ALONE)
    assert begun.saved(SETTINGS)["scaler"]["_growth_tracker"] == 3  # no step was skipped


def test_it_learns_and_tells_what_it_is_asked_to(tmp_path: Path) -> None:
    """Validations see the running mean, after the last step too; the hook after a step may mend weights."""
    seen: list[tuple[int, bool]] = []
    begun = state(5, ema=0.9)

    def validate(model: nn.Module, iteration: int, board: Any) -> None:
        seen.append((iteration, model is begun.result))
        board.scored(iteration, {"score": objective(model, table())["loss"].item()})

    def after_step() -> None:
        with torch.no_grad():
            begun.network.get_parameter("3.bias").clamp_(max=0.0)

    asked = Training(
        objective, lambda iteration: 0.05, 50, tmp_path, SETTINGS, validate_every=20, after_step=after_step,
        validate=validate,
    )  # fmt: skip
    train(asked, begun, ALONE)
    assert seen == [(20, True), (40, True), (50, True)]
    log = read_log(tmp_path)
    losses = [line["loss"] for line in log if "loss" in line]
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    assert [line["score"] for line in log if "score" in line][-1] < losses[0]
    assert begun.network.get_parameter("3.bias").item() <= 0
    assert [path.name for path in checkpoints(tmp_path)] == ["iteration_00000050.pt"]


def test_chance_is_of_the_place() -> None:
    drawn = {chance(seed, iteration, rank) for seed in range(3) for iteration in range(3) for rank in range(3)}
    assert len(drawn) == 27 and chance(1, 2, 0) == chance(1, 2, 0)
