"""A pretraining: taken up exactly in the middle of an epoch, in several processes, with losses that are no numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import StopRun
from segclip.load import read_segclip
from segclip.training import trainer
from segclip.training.objective import FROZEN, Pretraining
from segclip.training.trainer import WEIGHTS, Job, train
from tests.segclip.training.small import folder_job, shard_job, small_state, write_folder, write_shards
from tests.training.small import ALONE, in_processes
from training.board import read_log
from training.ranks import Ranks
from training.state import State, resume

pytestmark = pytest.mark.slow


class Killed(Exception):
    """As if the machine went down."""


def killed_at(iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run end in the middle of an iteration."""
    draw, drawn = trainer.draw_noise, []

    def last(*given: Any) -> Any:
        drawn.append(given)
        if len(drawn) > iteration:
            raise Killed
        return draw(*given)

    monkeypatch.setattr(trainer, "draw_noise", last)


def run(job: Job, ranks: Ranks = ALONE) -> State:
    state = small_state(job, ranks)
    resume(job.out, state, job.settings.record())
    train(job, state, ranks)
    return state


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_a_killed_run_that_is_taken_up_gives_the_same_losses(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 or 6 batches an epoch, checkpoints at 3, 6 and 8, killed in iteration 5 of 8; bit for bit."""

    def job(out: str) -> Job:
        if form == "folder":
            return folder_job(write_folder(tmp_path / "photos"), tmp_path / out, save_every=3)
        return shard_job(write_shards(tmp_path / "shards", (5, 4, 2)), tmp_path / out, save_every=3)

    whole = run(job("whole"))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_at(4, patched)
        run(job("killed"))
    torch.manual_seed(99)
    again = run(job("killed"))
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "killed")
    assert [line["iteration"] for line in read_log(tmp_path / "killed")] == list(range(1, 9))
    for one, two in zip(whole.network.state_dict().values(), again.network.state_dict().values()):
        assert torch.equal(one, two)
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "killed" / WEIGHTS).read_bytes()


def test_it_learns_and_its_file_is_a_segclip(tmp_path: Path) -> None:
    """What CLIP gave and what stays frozen: as published; the scale stays below 100."""
    job = folder_job(write_folder(tmp_path / "photos"), tmp_path / "out", max_iters=30, batch=6, warmup=0.1)
    state = small_state(job)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    train(job, state, ALONE)
    for name, share in {"contrastive": 0.8, "masked": 0.97}.items():
        losses = [line[name] for line in read_log(job.out)]
        assert sum(losses[-5:]) < share * sum(losses[:5]), name
    network, _ = read_segclip(job.out / WEIGHTS)
    assert isinstance(state.network, Pretraining)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state.network.network.state_dict()[name])
    for name, value in state.network.state_dict().items():
        still = any(part in name for part in FROZEN) or name.endswith("decoder_pos_embed")
        assert torch.equal(value, before[name]) == still, name


def test_clip_can_stay_as_it_is(tmp_path: Path) -> None:
    """--clip_lr 0: its blocks and texts do not learn; without the masked image neither do its parts."""
    job = folder_job(write_folder(tmp_path / "photos"), tmp_path / "out", max_iters=2, clip_factor=0.0, masked=False)
    state = small_state(job)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    train(job, state, ALONE)
    changed = {name for name, value in state.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any("layers0" in name or "text" in name or "mae" in name for name in changed)
    network, _ = read_segclip(job.out / WEIGHTS)
    assert network.vis_mae_decoder is None


def test_two_processes_learn_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pairs and noise in two halves: each half is contrasted with all pairs."""
    folder, draw = write_folder(tmp_path / "photos"), trainer.draw_noise

    def same_noise(ranks: Ranks) -> Any:
        def noise(batch: int, *sizes: Any) -> Any:
            torch.manual_seed(0)
            whole = draw(batch * ranks.count, *sizes)
            part = slice(ranks.index * batch, (ranks.index + 1) * batch)
            return type(whole)(*(getattr(whole, name)[part] for name in ("groups", "masked_groups", "order")))

        return noise

    monkeypatch.setattr(trainer, "draw_noise", same_noise(ALONE))
    alone = run(folder_job(folder, tmp_path / "alone", batch=4, max_iters=3))

    def work(ranks: Ranks) -> None:
        trainer.draw_noise = same_noise(ranks)
        shared = run(folder_job(folder, tmp_path / "shared", batch=2, max_iters=3, ranks=2), ranks)
        for name, value in alone.network.state_dict().items():
            torch.testing.assert_close(shared.network.state_dict()[name], value, atol=2e-4, rtol=1e-3)

    in_processes(2, work)
    for one, two in zip(read_log(tmp_path / "alone"), read_log(tmp_path / "shared")):
        assert one == pytest.approx(two, rel=1e-3)


class Spoiled(Pretraining):
    """Whose loss is no number in some calls."""

    bad: frozenset[int] = frozenset()
    calls = 0

    def forward(self, step: Any) -> dict[str, torch.Tensor]:
        losses = super().forward(step)
        self.calls += 1
        return {**losses, "loss": losses["loss"] * float("nan")} if self.calls in self.bad else losses


def spoiled(job: Job, bad: set[int]) -> State:
    state = small_state(job)
    state.network.__class__ = Spoiled
    state.network.bad = frozenset(bad)  # type: ignore[assignment]
    return state


def test_a_loss_that_is_no_number_is_skipped_and_counted(tmp_path: Path) -> None:
    job = folder_job(write_folder(tmp_path / "photos"), tmp_path / "out", max_iters=5)
    state = spoiled(job, {2, 3})
    train(job, state, ALONE)
    assert (state.skipped, state.in_a_row) == (2, 0)
    assert all(torch.isfinite(value).all() for value in state.network.state_dict().values())
    assert {int(each["step"]) for each in state.optimizer.state_dict()["state"].values()} == {3}


def test_losses_that_stay_no_numbers_end_the_run(tmp_path: Path) -> None:
    job = folder_job(write_folder(tmp_path / "photos"), tmp_path / "out", max_iters=60, save_every=2)
    state = spoiled(job, set(range(4, 100)))
    with pytest.raises(StopRun, match=r"no.* a finite number in 21 steps in a row, up to step 24 .*iteration_0000002"):
        train(job, state, ALONE)
    assert all(torch.isfinite(value).all() for value in state.network.state_dict().values())
