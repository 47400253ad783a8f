"""What changes while a network is trained, and the checkpoints that hold it.

A checkpoint is a dictionary of tensors and plain values, read without running code from it. It holds no state of
PyTorch's random generator: the loop seeds it anew for every iteration.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from common.errors import UserError
from common.files import atomic_write
from common.provenance import differences
from training.board import LOG, TENSORBOARD

FORMAT = 2
CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"iteration_(\d{8})\.pt")


class Data(Protocol):
    """An iterable of this rank's batches that ends not before the training does, and knows its position.

    A batch has a method `to(device)`. `state_dict` gives the position after the last batch that was yielded, in plain
    values that are the same on every rank; an iterator begun after `load_state_dict` goes on from there.
    """

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...


@dataclass
class State:
    """A network on its device, what trains it, and how far it is: `iteration` steps are done.

    skipped   steps of the run whose loss was not a finite number, so that they changed nothing
    in_a_row  how many of these came last, one after the other
    """

    network: nn.Module
    optimizer: Optimizer
    data: Data
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    iteration: int = 0
    skipped: int = 0
    in_a_row: int = 0

    @property
    def result(self) -> nn.Module:
        """The network that the training is for: the running mean where there is one."""
        return self.average.module if self.average else self.network

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler, "data": self.data}
        return parts | ({"average": self.average} if self.average else {})

    def saved(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint holds."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        counts = {"iteration": self.iteration, "skipped": self.skipped, "in_a_row": self.in_a_row}
        return {"format": FORMAT, "settings": dict(settings), **counts, **parts}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to where `saved` was called."""
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.iteration = int(saved["iteration"])
        self.skipped, self.in_a_row = int(saved.get("skipped", 0)), int(saved.get("in_a_row", 0))


def fresh_state(
    network: nn.Module, optimizer: Optimizer, data: Data, dtype: torch.dtype = torch.float32, ema: float = 0.0
) -> State:
    """The state before the first iteration of a network on its device.

    dtype  that the forward pass computes in; float16 needs gradients that are scaled
    ema    decay of the running mean of the weights; 0: none
    """
    device = next(network.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    return State(network, optimizer, data, scaler, running_mean(network, ema) if ema else None)


def running_mean(network: nn.Module, decay: float) -> AveragedModel:
    """Weights that follow the network's from its present ones on: `decay` of the old and 1 - `decay` of the new.

    Running estimates of batch norms follow too; counters and other whole numbers are taken as they are.
    """

    def follow(mean: Tensor, new: Tensor, _count: Tensor | int) -> Tensor:
        return mean.lerp(new, 1 - decay) if mean.is_floating_point() else new

    average = AveragedModel(network, avg_fn=follow, use_buffers=True)
    average.update_parameters(network)  # the first update only copies
    return average


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run that writes into `out`, the last one first."""
    return sorted((path for path in (out / CHECKPOINTS).glob("*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def write_checkpoint(out: Path, state: State, settings: Mapping[str, Any], keep: int) -> Path:
    """Write the state, whole or not at all; then remove all but the last `keep` checkpoints."""
    path = out / CHECKPOINTS / f"iteration_{state.iteration:08d}.pt"
    with atomic_write(path) as stream:
        torch.save(state.saved(settings), stream)
    for old in checkpoints(out)[keep:]:
        old.unlink(missing_ok=True)
    return path


def resume(
    out: Path, state: State, settings: Mapping[str, Any], remedy: str = "pass --overwrite or another --out"
) -> bool:
    """Restore the last checkpoint that can be read; whether there was one.

    Raises UserError, with the remedy, when it was made with other settings or by another version of this code.
    """
    for path in checkpoints(out):
        saved = _read(path)
        if saved is None:
            print(f"{path}: damaged, going on from the one before", file=sys.stderr)
            continue
        if saved.get("format") != FORMAT:
            raise UserError(f"{path}: made by another version of this code; {remedy}")
        if found := differences(saved["settings"], settings):
            raise UserError(f"{path}: made with other settings: {found}; {remedy}")
        state.restore(saved)
        return True
    return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises whatever its unpickler meets
        return None
    return saved if isinstance(saved, dict) else None


def remove_run(out: Path) -> None:
    """Remove the checkpoints, the log and the curves of an earlier run, and nothing else."""
    for path in [*checkpoints(out), *(out / TENSORBOARD).glob("events.out.tfevents.*"), out / LOG]:
        path.unlink(missing_ok=True)
