"""How a command starts, reports and ends."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType

from cli.commands import spelled
from common.errors import (
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
    EXIT_USAGE,
    StopRun,
    Terminated,
    UserError,
)
from common.outcome import Outcome
from common.package import missing_package

LISTED_FAILURES = 20
LISTED_NOTES = 8


def run(body: Callable[[], int], next_command: str = "", quiet: bool = False) -> int:
    """Run a command's body; returns its exit code.

    next_command  continues a run that was stopped; it is shown then. In a run inside another one, the outer's is shown
    quiet         print nothing on stdout, and show no progress bars

    A user's mistake ends in one line and exit code 2, a full disk in 3, Ctrl-C in 130, SIGTERM in 143. After the first
    of these signals the files at work are finished; a second one ends the process at once. A signal also counts where
    the exception that it raised got lost: modules written in C swallow it, or turn it into an ImportError.
    """
    with ExitStack() as stack:
        next_command = stack.enter_context(_outermost(next_command))
        received = stack.enter_context(_signals())
        if quiet:
            stack.enter_context(redirect_stdout(Silence()))
        try:
            code = body()
            sys.stdout.flush()
            return code
        except StopRun as error:
            _print_error(f"stopped: {error}", next_command)
            return EXIT_INCOMPLETE
        except BrokenPipeError:  # `| head` has read enough
            with suppress(OSError, io.UnsupportedOperation):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout at exit
            _print_error("error: stdout was closed before all was done; the same command goes on from here")
            return EXIT_INCOMPLETE
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, ModuleNotFoundError):
                error = missing_package(error) or error
            if not received and isinstance(error, UserError):
                _print_error(f"error: {error}")
                return EXIT_USAGE
            if not received and not isinstance(error, KeyboardInterrupt):
                raise
            message = "\ninterrupted; finished files are whole, the same command goes on from here"
            _print_error(message, next_command)
            terminated = isinstance(error, Terminated) or signal.SIGTERM in received[:1]
            return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED


_next_command: ContextVar[str] = ContextVar("what continues the run of this thread", default="")


@contextmanager
def _outermost(next_command: str) -> Iterator[str]:
    """What continues the run that this one is a part of, if there is one; for the runs inside this one, too."""
    outermost = _next_command.get() or next_command
    token = _next_command.set(outermost)
    try:
        yield outermost
    finally:
        _next_command.reset(token)


def _print_error(text: str, next_command: str = "") -> None:
    with suppress(OSError):  # stderr is closed
        print(spelled(text), file=sys.stderr)
        if next_command:
            print(f"continue with: {spelled(next_command)}", file=sys.stderr, flush=True)


class Silence(io.TextIOBase):
    """A stdout that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


_received: ContextVar[Sequence[int]] = ContextVar("signals of the run of this thread", default=())


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Raise for the first Ctrl-C or SIGTERM, in the main thread; end the process at the next. Yields those received."""
    handled = [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in handled}
    received: list[int] = []
    token = _received.set(received)

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(128 + number)
        if sys.stderr.isatty():
            os.write(2, b"\nfinishing the files at work; once more ends at once\n")
        check_signals()

    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):  # as under nohup
                signal.signal(number, stop)
        yield received
    finally:
        _received.reset(token)
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def check_signals() -> None:
    """Raise for a signal that this run received. For loops: the exception of its handler may have been swallowed."""
    if received := _received.get():
        raise Terminated if received[0] == signal.SIGTERM else KeyboardInterrupt


@dataclass
class Tally:
    """Counts of outcomes, all failures as (id, reason), and the ids of images by note."""

    made: int = 0
    kept: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            self.failures.append((outcome.id, outcome.reason))
        elif outcome.status == "kept":
            self.kept += 1
        else:
            self.made += 1
        for note in filter(None, outcome.note.split("; ")):
            self.notes.setdefault(note, []).append(outcome.id)

    def report(self, what: str, where: object) -> int:
        """Print the counts, the notes and the failures; returns the exit code."""
        kept = f", {self.kept} already there" if self.kept else ""
        print(f"{self.made} {what.removesuffix('s') if self.made == 1 else what} written{kept} in {where}")
        for note, ids in self.notes.items():
            more = f" and {len(ids) - LISTED_NOTES} more" if len(ids) > LISTED_NOTES else ""
            print(f"{_images(len(ids))}: {note} ({', '.join(ids[:LISTED_NOTES])}{more})")
        return list_failures(self.failures)


def list_failures(failures: list[tuple[str, str]]) -> int:
    """Print failures and their reasons on stderr; returns exit code 3 if there are any, else 0."""
    if not failures:
        return EXIT_OK
    print(f"{_images(len(failures))} failed:", file=sys.stderr)
    for image_id, reason in failures[:LISTED_FAILURES]:
        print(f"  {image_id}: {spelled(reason)}", file=sys.stderr)
    if len(failures) > LISTED_FAILURES:
        print(f"  ... and {len(failures) - LISTED_FAILURES} more", file=sys.stderr)
    return EXIT_INCOMPLETE


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def progress(outcomes: Iterable[Outcome], total: int, title: str, failed: int = 0) -> Iterator[Outcome]:
    """Yield the same outcomes, with a progress bar that counts failures; no bar without a terminal or with `quiet`.

    failed  number of images that failed before
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit="image", disable=isinstance(sys.stdout, Silence) or None) as bar:
        for outcome in outcomes:
            check_signals()
            failed += outcome.status == "failed"
            if failed:
                bar.set_postfix(failed=failed, refresh=False)
            bar.update()
            yield outcome
