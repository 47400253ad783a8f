"""What a command leaves beside its results, and what it tells programs: run.json, failures.jsonl and --log_json.

run.json        how, when and with what the files were made, counts and scores; after an interruption a few more files
                than it counts may be there
failures.jsonl  {"id", "stage", "reason"} a line for every image of the list that failed; absent if none did
--log_json      one JSON line an event: started, image, failed, message, finished
"""

import argparse
import io
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from cli import console
from cli.commands import spelled
from cli.run_record import FORMAT, RUN_FILE, Output, check_same_settings, code_version, now, versions
from common.errors import EXIT_INCOMPLETE, EXIT_OK, StopRun, UserError
from common.files import cannot_write, check_place, nearest_folder, sweep_leftovers, write_text
from common.shard import WHOLE, Shard, record_names, records_of_other_splits

FAILURES_FILE = "failures.jsonl"
SCORES = ("images", "miou", "pixel_accuracy", "mean_accuracy", "coverage", "precision", "classes")
STDERR = "-"  # --log_json without a file

Body = Callable[[argparse.Namespace, "RunLog"], int]


def run(name: str, stage: str, argv: Sequence[str] | None, args: argparse.Namespace, body: Body) -> int:
    """Run a command that has the options of `add_log_options`; returns its exit code (see `console.run`).

    name   as it is typed after `python`: "generate_cams.py", "-m scripts.run"
    stage  the stage that failures.jsonl names for failures of its images
    argv   as `main` got it; None: the process's own
    """
    log = RunLog(name, stage, [str(part) for part in (sys.argv[1:] if argv is None else argv)], args.log_json)
    with redirect_stderr(_MessageEvents(log)) if log.only_events else nullcontext():
        again = "   (--overwrite makes every file again)" if getattr(args, "overwrite", False) else ""
        quiet = args.quiet or log.only_events
        return console.run(lambda: log.record(lambda: body(args, log)), log.command + again, quiet)


class RunLog:
    """The counts and failures of a run, and everything that is written about them.

    tally        the outcomes of the images
    scores       the entries SCORES of the scores; None without scores
    spell        turns reasons and paths into text for people; `--engine ray` shows addresses here
    only_events  stderr holds JSON lines only, stdout nothing
    """

    def __init__(self, name: str, stage: str, arguments: Sequence[str], log_json: str | None) -> None:
        self.name, self.stage, self.arguments = name, stage, list(arguments)
        self.command = spelled(f"python {name}") + "".join(f" {shlex.quote(part)}" for part in arguments)
        self.tally = console.Tally()
        self.scores: dict[str, Any] | None = None
        self.output: Output | None = None
        self.shard = WHOLE
        self.spell: Callable[[object], str] = str
        self.total = 0
        self.only_events = log_json == STDERR
        self._log_file = None if log_json is None or self.only_events else Path(log_json)
        self._events: IO[str] | None = sys.stderr if self.only_events else None
        self._run_file, self._failures_file = Path(RUN_FILE), Path(FAILURES_FILE)
        self._failures: list[dict[str, str]] = []
        self._begun = False
        self._start_time, self._clock = now(), time.monotonic()

    # --- for the commands ---

    def write_to(self, output: Output, shard: Shard = WHOLE) -> None:
        """Set the output folder and remove what killed runs left in it.

        shard  this command's part of the list; the records of the other parts belong to other commands
        Raises UserError for a folder with files that were made in another way.
        """
        check_same_settings(output)
        sweep_leftovers(output.folder)
        self.output, self.shard = output, shard
        run_name, failures_name = record_names(shard)
        self._run_file, self._failures_file = output.folder / run_name, output.folder / failures_name

    def failed(self, failures: Iterable[tuple[str, str]], stage: str = "data") -> None:
        """Add (id, reason) of images that failed before the work on the list began."""
        for image_id, reason in failures:
            self.add(console.Outcome(image_id, "failed", reason), stage)

    def follow(self, outcomes: Iterable[console.Outcome], total: int, title: str) -> None:
        """Draw and add all outcomes, with a progress bar on a terminal; closes the generator on the way out.

        run.json is written after the first outcome: until then the stage may refuse the folder.
        """
        try:
            self.total = total + len(self.tally.failures)
            self.event("started", command=self.name, arguments=self.arguments, images=self.total)
            for outcome in console.progress(outcomes, total, title, len(self.tally.failures)):
                self._begin()
                self.add(outcome)
            self._begin()
        finally:
            if isinstance(outcomes, Iterator) and hasattr(outcomes, "close"):
                outcomes.close()

    def add(self, outcome: console.Outcome, stage: str = "") -> None:
        """Add one outcome."""
        outcome = replace(outcome, reason=" ".join(self.spell(outcome.reason).split()))
        self.tally.add(outcome)
        if outcome.status == "failed":
            failure = {"id": outcome.id, "stage": stage or self.stage, "reason": outcome.reason}
            self._failures.append(failure)
            self._append([failure])
            self.event("failed", **failure)
        else:
            note = {"note": outcome.note} if outcome.note else {}
            self.event("image", id=outcome.id, status=outcome.status, **note)

    def add_scores(self, result: dict[str, Any]) -> None:
        """Keep the scores of a summary (report/scores.py) for run.json and the last event."""
        self.scores = {key: result[key] for key in SCORES if key in result}

    def report(self, what: str = "", where: object = "") -> int:
        """Print the counts (with `what`) and the failures; returns the exit code."""
        if self.only_events:
            return EXIT_INCOMPLETE if self.tally.failures else EXIT_OK
        return self.tally.report(what, self.spell(where)) if what else console.list_failures(self.tally.failures)

    def record(self, body: Callable[[], int]) -> int:
        """Run the body and record how it ended; returns its exit code."""
        try:
            self._open_log_file()
            code = body()
            status = "done" if code == EXIT_OK else "incomplete"
            self._write_files(status)
            self._finished(status)
            return code
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            for last_step in (self._write_files, self._finished):
                with suppress(OSError, UserError, StopRun):  # the error that ended the run matters more
                    last_step(status)
            if isinstance(error, StopRun) and "cannot be written" in str(error):
                raise StopRun(f"{error}; {self._space_needed()}make room") from error
            raise
        finally:
            if self._log_file is not None and self._events is not None:
                with suppress(OSError):  # a full disk, which was reported
                    self._events.close()

    # --- events ---

    def _open_log_file(self) -> None:
        if self._log_file is None:
            return
        check_place(self._log_file, "--log_json", "log.jsonl")
        try:
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            self._events = self._log_file.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise cannot_write(self._log_file, error) from error

    def event(self, event: str, **facts: Any) -> None:
        """Write one JSON line, with the time and the seconds since the start. Raises StopRun when it cannot."""
        if self._events is None:
            return
        seconds = round(time.monotonic() - self._clock, 3)
        try:
            self._events.write(_json_line({"event": event, "time": now(), "seconds": seconds, **facts}))
            self._events.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StopRun(f"--log_json {self._log_file}: cannot be written ({error.strerror})") from error

    def _finished(self, status: str) -> None:
        self.event("finished", status=status, counts=self._counts(), **self._scores())

    def _counts(self) -> dict[str, Any]:
        tally = self.tally
        counts = {"images": self.total, "made": tally.made, "kept": tally.kept, "failed": len(tally.failures)}
        return {**counts, "notes": {note: len(ids) for note, ids in tally.notes.items()}}

    def _scores(self) -> dict[str, Any]:
        return {"scores": self.scores} if self.scores else {}

    # --- files ---

    def _begin(self) -> None:
        """Replace the records of an earlier run, once."""
        if self.output is None or self._begun:
            return
        self._begun = True
        for path in (self._failures_file, *records_of_other_splits(self.output.folder, self.shard)):
            _remove(path)
        self._write_run_file("running")
        self._append(self._failures)

    def _append(self, failures: list[dict[str, str]]) -> None:
        """Add lines to failures.jsonl at once, so that they survive a killed process."""
        if self.output is None or not self._begun or not failures:
            return
        try:
            with self._failures_file.open("a", encoding="utf-8") as stream:
                stream.writelines(map(_json_line, failures))
        except OSError as error:
            raise cannot_write(self._failures_file, error) from error

    def _write_files(self, status: str) -> None:
        """Write run.json, and failures.jsonl in the order of the list; ids that the list lacks come last."""
        if self.output is None or not self._begun:
            return
        sweep_leftovers(self.output.folder)  # of workers that died
        order = {image_id: number for number, image_id in enumerate(self.output.ids)}
        failures = sorted(self._failures, key=lambda failure: order.get(failure["id"], len(order)))
        if failures:
            write_text(self._failures_file, "".join(map(_json_line, failures)))
        else:
            _remove(self._failures_file)
        self._write_run_file(status)

    def _write_run_file(self, status: str) -> None:
        assert self.output is not None
        record = {
            "format": FORMAT,
            "command": self.name,
            "arguments": self.arguments,
            "status": status,
            "started": self._start_time,
            "ended": None if status == "running" else now(),
            "seconds": round(time.monotonic() - self._clock, 3),
            "counts": self._counts(),
            "device": self.output.device,
            **({"shard": "{}/{}".format(*self.shard)} if self.shard != WHOLE else {}),
            "suffix": self.output.suffix,
            "settings": dict(self.output.settings),
            "code": code_version(),
            "versions": versions(),
            **self._scores(),
        }
        write_text(self._run_file, json.dumps(record, indent=2) + "\n")

    def _space_needed(self) -> str:
        """How many images are left, the space that they need by the size of the files so far, and the free space."""
        if self.output is None:
            return ""
        sizes = {image_id: _size_on_disk(self.output.file(image_id)) for image_id in self.output.ids}
        written = [size for size in sizes.values() if size]
        waiting = sizes.keys() - {failure["id"] for failure in self._failures}
        left = sum(not sizes[image_id] for image_id in waiting)
        if self.output.overwrite:  # files of an earlier run do not count
            left = len(waiting) - self.tally.made
        need = f", which need about {_readable(left * sum(written) / len(written))}" if written else ""
        free = _readable(shutil.disk_usage(nearest_folder(self.output.folder)).free)
        return f"{left} of {len(sizes)} images are left{need}, {free} are free; "


class _MessageEvents(io.TextIOBase):
    """A stderr whose lines become events: warnings and errors for people."""

    def __init__(self, log: RunLog) -> None:
        self._log, self._unfinished = log, ""

    def write(self, text: str) -> int:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in filter(str.strip, lines):
            self._log.event("message", text=line)
        return len(text)


def _json_line(facts: dict[str, Any]) -> str:
    return json.dumps(facts) + "\n"


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # a folder of that name
        raise cannot_write(path, error) from error


def _size_on_disk(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:
        return 0
    return max(status.st_size, status.st_blocks * 512)


def _readable(size: float) -> str:
    """Bytes for people."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"
