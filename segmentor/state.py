"""What changes while a network is trained, and the checkpoints that hold it.

A checkpoint is a dictionary of tensors and plain values, read without running code from it. No random generator's state
is in it: chance belongs to the iteration (segmentor/samples.py).
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from common.errors import UserError
from common.files import atomic_write
from segmentor.average import Average
from segmentor.networks import Segmentor
from segmentor.optimizers import optimizer_for
from segmentor.settings import Settings, differences

FORMAT = 1
_NAME = re.compile(r"iteration_(\d{8})\.pt")


@dataclass
class State:
    """A network on its device, and how far it is: `iteration` steps are done."""

    network: Segmentor
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    iteration: int = 0

    def saved(self, settings: Settings) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "settings": settings.record(),
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.weights if self.average else {},
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average:
            self.average.weights = {
                name: value.to(self.average.weights[name].device) for name, value in saved["average"].items()
            }
        self.iteration = int(saved["iteration"])


def fresh_state(network: Segmentor, settings: Settings, device: torch.device) -> State:
    """The state before the first iteration."""
    network = network.to(device)
    return State(
        network,
        optimizer_for(network, settings.optimizer, settings.weight_decay, settings.head_factor),
        torch.amp.GradScaler(device.type, enabled=settings.precision == "float16"),
        Average(network, settings.ema) if settings.ema else None,
    )


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the last one first."""
    return sorted((path for path in folder.glob("*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def write_checkpoint(folder: Path, state: State, settings: Settings, keep: int) -> Path:
    """Write the state, whole or not at all; then remove all but the last `keep` checkpoints."""
    path = folder / f"iteration_{state.iteration:08d}.pt"
    with atomic_write(path) as stream:
        torch.save(state.saved(settings), stream)
    for old in checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def take_up(folder: Path, state: State, settings: Settings) -> bool:
    """Restore the last checkpoint that can be read; whether there was one.

    Raises UserError, showing the difference, when it was made with other settings.
    """
    for path in checkpoints(folder):
        saved = _read(path)
        if saved is None:
            print(f"{path}: damaged, going on from the one before", file=sys.stderr)
            continue
        if told := differences(saved["settings"], settings.record()):
            raise UserError(f"{path}: made with other settings: {told}; pass --overwrite or another --out")
        state.restore(saved)
        return True
    return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises whatever its unpickler meets
        return None
    return saved if isinstance(saved, dict) and saved.get("format") == FORMAT else None
