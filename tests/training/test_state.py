"""Checkpoints: whole or absent, the last ones, and only of the same settings; the running mean."""

from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import UserError
from tests.training.small import ALONE, SETTINGS, state, training
from training.board import LOG
from training.loop import train
from training.state import checkpoints, remove_run, resume, running_mean, write_checkpoint


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    some = state()
    for some.iteration in (3, 20, 100):
        write_checkpoint(tmp_path, some, SETTINGS, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["iteration_00000100.pt", "iteration_00000020.pt"]


def test_forget_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    train(training(tmp_path, 1), state(), ALONE)
    assert (tmp_path / LOG).is_file()
    for name in ("checkpoints/mine.pt", "notes.txt"):
        (tmp_path / name).write_text("x")
    remove_run(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["checkpoints/mine.pt", "notes.txt"]


def test_a_checkpoint_is_read_without_running_code(tmp_path: Path) -> None:
    saved = torch.load(write_checkpoint(tmp_path, state(ema=0.5), SETTINGS, 1), weights_only=True)
    assert saved["iteration"] == 0
    assert set(saved["average"]) == {f"module.{name}" for name in saved["network"]} | {"n_averaged"}


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = state()
    for some.iteration in (3, 20):
        last = write_checkpoint(tmp_path, some, SETTINGS, keep=2)
    last.write_bytes(last.read_bytes()[:1000])
    fresh = state()
    assert resume(tmp_path, fresh, SETTINGS) and fresh.iteration == 3
    assert "iteration_00000020.pt: damaged" in capsys.readouterr().err


def test_other_settings_and_other_versions_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, state(), SETTINGS, keep=2)
    with pytest.raises(UserError, match=r"lr 0\.05 \(now 0\.5\), warmup None \(now 7\); pass --overwrite or"):
        resume(tmp_path, state(), {**SETTINGS, "lr": 0.5, "warmup": 7})
    torch.save({"format": 1, "settings": SETTINGS, "iteration": 3}, path)
    with pytest.raises(UserError, match=r"iteration_00000000\.pt: made by another version of this code; pass another"):
        resume(tmp_path, state(), SETTINGS, "pass another --log_dir")


def test_the_running_mean_follows_the_formula() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    average = running_mean(network, 0.9)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(4):
        network(torch.randn(2, 2, 4, 4))
        with torch.no_grad():
            network[0].weight.add_(torch.randn_like(network[0].weight))
        average.update_parameters(network)
        for name, value in network.state_dict().items():
            whole = name.endswith("num_batches_tracked")
            expected[name] = value.clone() if whole else 0.9 * expected[name] + 0.1 * value
    for name, value in expected.items():
        torch.testing.assert_close(average.module.state_dict()[name], value)
