"""What a training run tells: log.jsonl, TensorBoard, a progress bar.

log.jsonl has a line an iteration, {"iteration", "loss", "lr"}, and one a validation, {"iteration", "miou", ...}; when a
run is taken up, what lies behind its checkpoint is cut off.
"""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from cli.console import Silence
from common.errors import UserError
from common.files import write_text
from pipeline.steps.scores import Scores
from report.pictures import colour_labels, contact_sheet, legend_of

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
FLUSHED = 20  # iterations: reading a loss from a GPU waits for it


class Board:
    """Written by the first rank alone; `start` is the iteration from which the run goes on."""

    def __init__(self, out: Path, start: int, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        _cut(out / LOG, start)
        self.log = (out / LOG).open("a", encoding="utf-8")
        self.writer = SummaryWriter(str(out / TENSORBOARD), purge_step=start + 1 if start else None)
        hidden = isinstance(sys.stdout, Silence) or None  # None: hidden where stderr is no terminal
        self.bar = tqdm(total=total, initial=start, desc="training", unit="step", disable=hidden)
        self.waiting: list[tuple[int, Tensor, float]] = []

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self.log.close()
        self.writer.close()
        self.bar.close()

    def step(self, iteration: int, loss: Tensor, rate: float) -> None:
        """The loss and the learning rate of an iteration, counted from 1."""
        self.waiting.append((iteration, loss, rate))
        self.bar.update()
        if len(self.waiting) >= FLUSHED:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for iteration, loss, rate in self.waiting:
            value = float(loss)
            self._line({"iteration": iteration, "loss": value, "lr": rate})
            self.writer.add_scalar("train/loss", value, iteration)
            self.writer.add_scalar("train/lr", rate, iteration)
            self.bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        self.waiting = []
        self.log.flush()

    def scored(self, iteration: int, scores: Scores) -> None:
        """The scores of a validation."""
        self.flush()
        values = {name: getattr(scores, name) for name in ("miou", "pixel_accuracy", "mean_accuracy")}
        self._line({"iteration": iteration, **values})
        for name, value in values.items():
            self.writer.add_scalar(f"validation/{name}", value, iteration)
        self.log.flush()

    def pictures(self, iteration: int, rows: list[list[np.ndarray]], labels: tuple[str, ...]) -> None:
        """Rows of image (H, W, 3) uint8, mask and prediction (H, W) uint8, drawn in VOC's colours."""
        used = {int(value) for _image, *parts in rows for part in parts for value in np.unique(part)}
        drawn = [[image, *map(colour_labels, parts)] for image, *parts in rows]
        sheet = contact_sheet(drawn, ["image", "mask", "prediction"], legend_of(labels, used))
        self.writer.add_image("predictions", np.asarray(sheet), iteration, dataformats="HWC")

    def _line(self, facts: dict[str, Any]) -> None:
        self.log.write(json.dumps(facts) + "\n")


def _cut(path: Path, start: int) -> None:
    """Leave the lines of the first `start` iterations in a log."""
    if not path.exists():
        return
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
        raise UserError(f"{path}: no such log; expected the --out folder of scripts/train_segmentor.py")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if _iteration(line)]
