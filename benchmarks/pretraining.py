"""A training step of SegCLIP against a plain transcription: seconds, agreement of losses, and memory over many steps.

python -m benchmarks.pretraining [--quick] [--json FILE] [--threads 2] [--models ViT-B/16 toy] [--batch 4]

Both take the same steps on the same batches with the same noise, from the same random weights. Reading images does not
count.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import measure
from benchmarks.material import MODELS, model_file
from benchmarks.plain_pretraining import PlainAdamW, PlainBatch, plain_step
from clip.load import load_clip
from common.arguments import positive
from common.errors import EXIT_INCOMPLETE, EXIT_OK
from segclip.training.objective import Pretraining, Step, draw_noise, rate_and_decay
from segclip.training.settings import Settings
from segclip.training.trainer import begin, optimizer_for
from training import loop
from training.ranks import Ranks
from training.state import State, fresh_state

TOLERANCE = 1e-3  # of the losses of the steps, relative
LONGEST_CAPTION, TYPICAL_CAPTION = 32, 14  # tokens; COCO's captions have some ten words
START, END = 49406, 49407
COLUMNS: measure.Columns = {
    "model": ("model", "{}"),
    "batch": ("pairs a step", "{}"),
    "seconds": ("s a step", "{:.2f}"),
    "plain_seconds": ("plain, s a step", "{:.2f}"),
    "ratio": ("ratio", "{:.2f}"),
    "losses": ("largest difference of losses", "{:.1e}"),
    "first_mb": ("MB after the first steps", "{:.0f}"),
    "last_mb": ("and after all", "{:.0f}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("A training step of SegCLIP against a plain transcription.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="random ViT-B/16, toy world")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="pairs a step")
    parser.add_argument("--turns", type=positive, help="not given: 5, with --quick 1")
    return parser.parse_args(argv)


class _NoData:
    """In the place of the data: batches are made here."""

    def __iter__(self) -> Any:
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any, /) -> None:
        """Nothing to go back to."""


class Contestants:
    """Both ways with the same weights; each step of one is as the other's."""

    def __init__(self, weights: Path, batch: int, steps: int) -> None:
        clip = load_clip(str(weights))
        settings = Settings("", clip.activation, batch * steps, (), clip.visual.image_size, batch=batch, epochs=1)
        network = begin(clip, settings)
        self.state = {name: value.clone() for name, value in network.state_dict().items()}
        self.learning, self.settings = Pretraining(network, settings, Ranks(torch.device("cpu"))), settings
        self.ours: State = fresh_state(self.learning, optimizer_for(self.learning, settings), _NoData())
        kind = rate_and_decay(settings)
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.plain = PlainAdamW({name: settings.lr * kind(name, weight)[0] for name, weight in trained.items()})
        for name in trained:
            self.state[name].requires_grad_()
        self.training = loop.Training(
            lambda model, step: model(step), settings.rate, steps, Path(), {}, clip_norm=1.0, most_skipped=20,
            after_step=self.learning.cap_scale,
        )  # fmt: skip
        self.patch = clip.patch_size
        self.losses: dict[str, list[float]] = {"ours": [], "plain": []}

    def batch(self, number: int) -> tuple[Step, PlainBatch]:
        """Random pixels in coarse superpixels, captions of random words; drawn anew for the number."""
        torch.manual_seed(number)
        count, side = self.settings.batch, self.settings.side
        images = torch.randn(count, 3, side, side)
        tokens = torch.zeros(count, LONGEST_CAPTION, dtype=torch.int64)
        lengths = torch.randint(6, TYPICAL_CAPTION + 1, (count,)).tolist()
        for row, length in zip(tokens, lengths):
            row[:length] = torch.randint(1000, 40_000, (length,))
            row[0], row[length - 1] = START, END
        patches = (side // self.patch) ** 2
        ids = torch.randint(0, 30, (count, patches))
        noise = draw_noise(count, self.settings.groups, patches, torch.device("cpu"))
        plain = PlainBatch(images, tokens, ids, noise.groups, noise.masked_groups, noise.order)
        return Step(images, tokens[:, : max(lengths)], ids, noise), plain

    def step(self, way: str) -> float:
        """The seconds of one step."""
        number = len(self.losses[way])
        ours, plain = self.batch(number)
        rate = self.settings.rate(number)

        def work() -> None:
            if way == "ours":
                losses = loop.step(self.training, self.ours, self.learning, [ours], rate, self.learning.ranks)
                self.losses[way].append(float(losses["loss"]))
                self.ours.iteration += 1
            else:
                self.losses[way].append(plain_step(self.state, self.plain, plain, rate / self.settings.lr))

        return measure.timed(work)()


def race(model: str, weights: Path, batch: int, turns: int) -> dict[str, Any]:
    """A row of the table. The first step of each warms up."""
    both = Contestants(weights, batch, turns + 1)
    for way in ("plain", "ours"):
        both.step(way)
    first = resident_mb()
    seconds = measure.take_turns({way: partial(both.step, way) for way in ("plain", "ours")}, turns)
    apart = max(abs(one - two) / abs(two) for one, two in zip(both.losses["ours"], both.losses["plain"]))
    return {
        "model": model,
        "batch": batch,
        "seconds": seconds["ours"],
        "plain_seconds": seconds["plain"],
        "ratio": seconds["plain"] / seconds["ours"],
        "losses": apart,
        "first_mb": first,
        "last_mb": resident_mb(),
    }


def resident_mb() -> float:
    """What this process holds now; nan where the system does not say it."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024 / 1e6


def verdict(rows: Sequence[measure.Row]) -> int:
    """The exit code: times of two programs mean something together only where both do the same."""
    wrong = [row for row in rows if not row["losses"] <= TOLERANCE]
    for row in wrong:
        print(f"error: {row['model']}: the losses are not those of the transcription", file=sys.stderr)
    return EXIT_INCOMPLETE if wrong else EXIT_OK


def _run(args: argparse.Namespace) -> int:
    turns = args.turns or (1 if args.quick else 5)
    with measure.cores(args.threads), TemporaryDirectory() as name:
        machine = measure.machine()
        print(measure.headline(f"SegCLIP's training step: medians of {turns} turns", args.threads, machine))
        rows = [race(model, model_file(model, Path(name)), args.batch, turns) for model in args.models]
    print(measure.table(rows, COLUMNS))
    settings = {"batch": args.batch, "turns": turns, "threads": args.threads}
    measure.write_record(args.json, "pretraining", machine, settings, rows)
    return verdict(rows)


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
