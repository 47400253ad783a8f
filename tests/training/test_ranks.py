"""Several processes: batch norms over all of them, steps that equal those of one process, an end that all see."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from tests.training.small import ALONE, in_processes, state, training
from training.board import read_log
from training.loop import train
from training.ranks import Ranks, SharedBatchNorm, start_ranks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")


def test_batch_norms_see_all_ranks() -> None:
    torch.manual_seed(0)
    values, wanted = torch.randn(4, 3, 5, 6) * 2 + 1, torch.randn(4, 3, 5, 6)
    plain = nn.BatchNorm2d(3)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    start = {name: value.clone() for name, value in plain.state_dict().items()}
    given = values.clone().requires_grad_()
    found = plain(given)
    (found * wanted).sum().backward()

    def work(ranks: Ranks) -> None:
        norm, part = SharedBatchNorm(3), slice(ranks.index * 2, ranks.index * 2 + 2)
        norm.load_state_dict(start)
        own = values[part].clone().requires_grad_()
        out = norm(own)
        (out * wanted[part]).sum().backward()
        torch.testing.assert_close(out, found[part].detach(), atol=1e-5, rtol=1e-5)
        assert given.grad is not None and own.grad is not None
        torch.testing.assert_close(own.grad, given.grad[part], atol=1e-5, rtol=1e-4)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[name], value, atol=1e-5, rtol=1e-5)
        weight = ranks.sum(norm.weight.grad)
        torch.testing.assert_close(weight, plain.weight.grad, atol=1e-4, rtol=1e-4)

    in_processes(2, work)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_learn_what_one_does(tmp_path: Path, accumulate: int) -> None:
    """The same rows in two halves: weights after four steps, and the means of the losses that are logged."""
    alone = state(4, sgd=True)
    train(training(tmp_path / "alone", 4, accumulate=accumulate), alone, ALONE)

    def work(ranks: Ranks) -> None:
        shared = state(2, ranks, sgd=True)
        train(training(tmp_path / "shared", 4, accumulate=accumulate), shared, ranks)
        for one, two in zip(alone.network.parameters(), shared.network.parameters()):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)

    in_processes(2, work)
    for one, two in zip(read_log(tmp_path / "alone"), read_log(tmp_path / "shared")):
        assert one == pytest.approx(two, rel=1e-4)


def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path: Path) -> None:
    """One checkpoint is written, and neither process waits for the other for ever."""

    def work(ranks: Ranks) -> None:
        def prepare(batches: Sequence[Tensor], iteration: int) -> Sequence[Tensor]:
            if ranks.index == 1 and iteration == 3:
                os.kill(os.getpid(), 2)
            return batches

        with pytest.raises(KeyboardInterrupt):
            train(training(tmp_path, 50, save_every=100, prepare=prepare), state(2, ranks), ranks)

    in_processes(2, work)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["iteration_00000004.pt"]


def test_torchrun_is_asked_for_when_its_names_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start several processes with torchrun"), start_ranks("cpu"):
        pass
