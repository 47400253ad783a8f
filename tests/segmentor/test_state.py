"""Checkpoints: whole or absent, the last ones, and only of the same settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from segmentor.state import checkpoints, fresh_state, take_up, write_checkpoint
from tests.segmentor.small import settings, small_network

CPU = torch.device("cpu")


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    state = fresh_state(small_network(), settings(), CPU)
    (tmp_path / "mine.pt").write_bytes(b"not ours")
    for iteration in (3, 20, 100):
        state.iteration = iteration
        write_checkpoint(tmp_path, state, settings(), keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["iteration_00000100.pt", "iteration_00000020.pt"]
    assert (tmp_path / "mine.pt").exists()


def test_a_checkpoint_is_read_without_running_code(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, fresh_state(small_network(), settings(ema=0.5), CPU), settings(ema=0.5), 1)
    saved = torch.load(path, weights_only=True)
    assert saved["iteration"] == 0 and set(saved["average"]) == set(saved["network"])


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = fresh_state(small_network(), settings(), CPU)
    for iteration in (3, 20):
        state.iteration = iteration
        last = write_checkpoint(tmp_path, state, settings(), keep=2)
    last.write_bytes(last.read_bytes()[:1000])
    fresh = fresh_state(small_network(), settings(), CPU)
    assert take_up(tmp_path, fresh, settings()) and fresh.iteration == 3
    assert "iteration_00000020.pt: damaged" in capsys.readouterr().err


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, fresh_state(small_network(), settings(), CPU), settings(), keep=2)
    other = settings(lr=0.5, views=replace(settings().views, crop=64))
    with pytest.raises(UserError, match=r"lr 0\.01 \(now 0\.5\), view_crop 48 \(now 64\); pass --overwrite"):
        take_up(tmp_path, fresh_state(small_network(), other, CPU), other)


def test_nothing_to_take_up(tmp_path: Path) -> None:
    assert not take_up(tmp_path / "none", fresh_state(small_network(), settings(), CPU), settings())
