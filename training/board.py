"""What a training writes for people: log.jsonl, TensorBoard, a progress bar.

log.jsonl has a line an iteration, {"iteration", "loss", "lr", ...}, and one a validation, {"iteration", "miou", ...}.
When a run is taken up, the lines after its checkpoint are cut off.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common.errors import UserError
from common.files import write_text

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
FLUSHED = 20  # iterations: reading a loss from a GPU waits for it


class Board:
    """Written by the first rank alone.

    start  the iterations that are done; total  all of them
    """

    def __init__(self, out: Path, start: int, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        out.mkdir(parents=True, exist_ok=True)
        _cut(out / LOG, start)
        self.log = (out / LOG).open("a", encoding="utf-8")
        self.writer = SummaryWriter(str(out / TENSORBOARD), purge_step=start + 1 if start else None)
        self.bar = tqdm(total=total, initial=start, desc="training", unit="step", disable=None)  # None: on terminals
        self.waiting: list[tuple[int, Mapping[str, Tensor | float]]] = []

    def close(self) -> None:
        """Write what waits, and end."""
        self.flush()
        self.log.close()
        self.writer.close()
        self.bar.close()

    def step(self, iteration: int, values: Mapping[str, Tensor | float]) -> None:
        """Losses and the like of an iteration, counted from 1; the bar shows the first one."""
        self.waiting.append((iteration, values))
        self.bar.update()
        if len(self.waiting) >= FLUSHED:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for iteration, values in self.waiting:
            numbers = {name: float(value) for name, value in values.items()}
            self._scalars(iteration, "train", numbers)
            first = next(iter(numbers))
            self.bar.set_postfix({first: f"{numbers[first]:.3f}"}, refresh=False)
        self.waiting = []
        self.log.flush()

    def scored(self, iteration: int, scores: Mapping[str, float]) -> None:
        """The scores of a validation by name."""
        self.flush()
        self._scalars(iteration, "validation", scores)
        self.log.flush()

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """An (H, W, 3) uint8 picture for TensorBoard."""
        self.writer.add_image(name, image, iteration, dataformats="HWC")

    def _scalars(self, iteration: int, group: str, values: Mapping[str, float]) -> None:
        self.log.write(json.dumps({"iteration": iteration, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, iteration)


def _cut(path: Path, start: int) -> None:
    """Leave the lines of the first `start` iterations in a log."""
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if 0 < _iteration(line) <= start]
        write_text(path, "".join(f"{line}\n" for line in kept))


def _iteration(line: str) -> int:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):  # half a line of a killed run
        return 0


def read_log(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; raises UserError when there is none."""
    path = out / LOG
    if not path.is_file():
        raise UserError(f"{path}: no such log; expected the folder that a training writes into")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if _iteration(line)]
