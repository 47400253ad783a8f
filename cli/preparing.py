"""What the commands that prepare annotations have in common: options, the loop over masks, lists and what is said."""

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser
from common.files import write_text

if TYPE_CHECKING:
    from dataset.annotations import MaskJob

Values = dict[str, tuple[int, ...]]  # mask values by image id


def add_outputs(parser: Parser, labels: bool = False) -> None:
    """Add --masks_out, --split_out and, with `labels`, --labels_out."""
    parser.add_argument("--masks_out", type=Path, metavar="DIR", help="where the masks go, one <id>.png an image")
    parser.add_argument("--split_out", type=Path, metavar="FILE", help="where the split file goes, for --split_file")
    if labels:
        parser.add_argument("--labels_out", type=Path, metavar="FILE", help="where lines `id 0 5 7` go, for --labels")


def parse_outputs(parser: Parser, argv: list[str] | None) -> argparse.Namespace:
    """Parse a command line; ends the command when none of its outputs is given."""
    args = parser.parse_args(argv)
    outputs = {name: f"--{name} {'DIR' if name == 'masks_out' else 'FILE'}" for name in vars(args) if "_out" in name}
    if not any(getattr(args, name) for name in outputs):
        parser.error(f"nothing to do: expected {', '.join(outputs.values())}, or several of them")
    return args


def make_masks(job: "MaskJob", ids: Collection[str], threads: int = 2) -> tuple[console.Tally, Values]:
    """Make the masks that are missing; the counts, and the mask values (but 255) of each id that did not fail."""
    from dataset.annotations import prepare  # scipy takes a while to import

    tally, values = console.Tally(), Values()
    made = prepare(job, ids, threads)

    def outcomes() -> Iterator[console.Outcome]:
        for outcome, classes in made:
            if outcome.status != "failed":
                values[outcome.id] = classes
            yield outcome

    for outcome in console.progress(outcomes(), len(ids), "masks"):
        tally.add(outcome)
    return tally, values


def report(tally: console.Tally, masks_out: Path | None) -> int:
    """Print what became of the masks; the exit code that follows."""
    if masks_out is not None:
        return tally.report("masks", masks_out)
    print("masks   not written: no --masks_out")
    return console.list_failures(tally.failures)


def verdict(count: int, whole: Mapping[str, int]) -> str:
    """A count beside those of the whole data set, by the name of the split."""
    named = {number: f"{name} {number}" for name, number in whole.items()}
    if count in named:
        return f"as expected, {named[count]}"
    return f"expected {' or '.join(named.values())}: not a whole split"


def write_lines(path: Path, lines: Mapping[str, Sequence[int]]) -> None:
    """Write lines `id 0 5 7`, or `id` where there are no numbers."""
    write_text(path, "".join(f"{' '.join([key, *map(str, numbers)])}\n" for key, numbers in lines.items()))
