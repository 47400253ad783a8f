"""Benchmarks on small images, and in this process."""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest

from benchmarks import material, measure

SIZES = [(48, 64), (60, 44)]


@pytest.fixture
def small_photos(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Call it with a benchmark's module: small generated images take the place of photos there."""

    def replace(module: ModuleType) -> None:
        monkeypatch.setattr(module, "photos", lambda count, folder: material.generated(count, folder, SIZES))

    return replace


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> list[measure.Command]:
    """Commands that would have a process of their own run in this one; they are listed. Their memory is made up."""
    run: list[measure.Command] = []

    def here(*commands: measure.Command) -> tuple[list[measure.Usage], float]:
        for module, arguments in commands:
            assert importlib.import_module(module).main(arguments) == 0
        run.extend(commands)
        return [measure.Usage(1.0, 100.0 + len(run))] * len(commands), 1.0

    monkeypatch.setattr(measure, "run_fresh", here)
    return run
