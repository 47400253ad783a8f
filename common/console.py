"""How a command starts, reports and ends. May import tqdm and common.errors."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from common.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UserError

LISTED_FAILURES = 20


def run(body: Callable[[], int]) -> int:
    """Run a command's body; a user's mistake ends in one line and exit code 2, Ctrl-C in 130."""
    try:
        code = body()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\ninterrupted; finished files are whole, the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at exit
        print("error: stdout was closed before all was done; the same command goes on from here", file=sys.stderr)
        return EXIT_INCOMPLETE


@dataclass(frozen=True)
class Outcome:
    """What became of one image: "made", "kept" (was there already) or "failed" with a reason."""

    id: str
    status: str
    reason: str = ""


@dataclass
class Tally:
    """Counts of outcomes; every failure is kept with its reason."""

    made: int = 0
    kept: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            self.failures.append((outcome.id, outcome.reason))
        elif outcome.status == "kept":
            self.kept += 1
        else:
            self.made += 1

    def report(self, what: str, where: object) -> int:
        """Print the counts and the failures; the exit code that follows from them."""
        kept = f", {self.kept} already there" if self.kept else ""
        print(f"{self.made} {what} written{kept} in {where}")
        return list_failures(self.failures)


def list_failures(failures: list[tuple[str, str]]) -> int:
    """Print what failed and why on stderr; exit code 3 if anything did, else 0."""
    if not failures:
        return EXIT_OK
    print(f"{len(failures)} image{'s' if len(failures) > 1 else ''} failed:", file=sys.stderr)
    for image_id, reason in failures[:LISTED_FAILURES]:
        print(f"  {image_id}: {reason}", file=sys.stderr)
    if len(failures) > LISTED_FAILURES:
        print(f"  ... and {len(failures) - LISTED_FAILURES} more", file=sys.stderr)
    return EXIT_INCOMPLETE


def progress(outcomes: Iterable[Outcome], total: int, title: str) -> Iterator[Outcome]:
    """The same outcomes, with a progress bar on a terminal that counts failures."""
    from tqdm import tqdm

    failed = 0
    with tqdm(total=total, desc=title, unit="image", disable=None) as bar:
        for outcome in outcomes:
            if outcome.status == "failed":
                failed += 1
                bar.set_postfix(failed=failed)
            bar.update()
            yield outcome
