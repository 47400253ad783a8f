"""Shared by the commands that prepare annotations: options, the loop over masks, lists and reports."""

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser
from common.files import write_text

if TYPE_CHECKING:
    from dataset.annotations import MaskJob


def parse_outputs(parser: Parser, argv: list[str] | None, labels: bool = False) -> argparse.Namespace:
    """Add --masks_out, --split_out and, with `labels`, --labels_out, and parse; ends the command without an output."""
    add = parser.add_argument
    add("--masks_out", type=Path, metavar="DIR", help="folder for the masks, one <id>.png an image")
    add("--split_out", type=Path, metavar="FILE", help="file for the ids, for --split_file")
    if labels:
        add("--labels_out", type=Path, metavar="FILE", help="file for lines `id 0 5 7`, for --labels")
    args = parser.parse_args(argv)
    if not any(value for name, value in vars(args).items() if name.endswith("_out")):
        options = "--masks_out DIR, --split_out FILE" + (", --labels_out FILE" if labels else "")
        parser.error(f"nothing to do: expected {options}, or several of them")
    return args


def make_masks(
    job: "MaskJob", ids: Collection[str], threads: int = 2
) -> tuple[console.Tally, dict[str, tuple[int, ...]]]:
    """Make the missing masks; returns the counts, and the mask values (without 255) of each id that did not fail."""
    from dataset.annotations import prepare  # scipy takes a while to import

    tally, values = console.Tally(), dict[str, tuple[int, ...]]()

    def outcomes() -> Iterator[console.Outcome]:
        for outcome, mask_values in prepare(job, ids, threads):
            tally.add(outcome)
            if outcome.status != "failed":
                values[outcome.id] = mask_values
            yield outcome

    for _ in console.progress(outcomes(), len(ids), "masks"):
        pass
    return tally, values


def report(tally: console.Tally, masks_out: Path | None) -> int:
    """Print the counts of the masks; returns the exit code."""
    if masks_out is not None:
        return tally.report("masks", masks_out)
    print("masks   not written: no --masks_out")
    return console.list_failures(tally.failures)


def compared(count: int, split_sizes: Mapping[str, int]) -> str:
    """A text that compares a count with the sizes of a data set's splits."""
    names = {size: f"{name} {size}" for name, size in split_sizes.items()}
    if count in names:
        return f"as expected, {names[count]}"
    return f"expected {' or '.join(names.values())}: not a whole split"


def write_lines(path: Path, lines: Mapping[str, Sequence[int]]) -> None:
    """Write lines `id 0 5 7`, or `id` where there are no numbers."""
    write_text(path, "".join(f"{' '.join([key, *map(str, numbers)])}\n" for key, numbers in lines.items()))
