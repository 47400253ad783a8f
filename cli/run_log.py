"""What a command that works through a list leaves to read: run.json, failures.jsonl and, if asked, JSON lines.

run.json        beside the files that the command makes: how, when and with what they were made, counts and scores;
                after an interruption the counts are of what had been told, and a few more files may be there
failures.jsonl  beside it: {"id", "stage", "reason"} a line for every image of the list that failed; absent if none did
--log_json      one JSON line an event: started, image, failed, message, finished
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli import console
from cli.events import AsEvents, Events, as_line
from cli.run_record import FORMAT, RUN_FILE, Output, check_same_settings, code_version, now, versions
from common.errors import EXIT_INCOMPLETE, EXIT_OK, StopRun, UserError
from common.files import atomic_write, cannot_write, sweep_leftovers, write_text
from common.shard import WHOLE, Shard, record_names, records_of_other_splits

FAILURES_FILE = "failures.jsonl"
SCORES = ("images", "miou", "pixel_accuracy", "mean_accuracy", "coverage", "precision", "classes")

Body = Callable[[argparse.Namespace, "RunLog"], int]


def run(name: str, stage: str, argv: Sequence[str] | None, args: argparse.Namespace, body: Body) -> int:
    """`console.run` for a command with the options of `add_log_options`; returns its exit code.

    name   as it is typed after `python`: "generate_cams.py", "-m scripts.run"
    stage  what failures of its images are booked under
    argv   as `main` got it; None: the process's own
    """
    typed = [str(part) for part in (sys.argv[1:] if argv is None else argv)]
    events = Events(args.log_json)
    log = RunLog(name, stage, typed, events)
    with redirect_stderr(AsEvents(events)) if events.alone else nullcontext():
        quiet = args.quiet or events.alone
        return console.run(lambda: log.through(lambda: body(args, log)), log.again, quiet)


class RunLog:
    """The counts and failures of a run, and all that is told of them.

    tally   what became of the images
    scores  what `cli.run_log.SCORES` names of the scores, where there are any
    spell   how reasons and places are told to people; the engine puts addresses for paths here
    """

    def __init__(self, name: str, stage: str, typed: Sequence[str], events: "Events") -> None:
        self.name, self.stage, self.typed, self.events = name, stage, list(typed), events
        self.again = " ".join(["python", name, *map(shlex.quote, typed)])
        self.tally = console.Tally()
        self.scores: dict[str, Any] | None = None
        self.output: Output | None = None
        self.shard = WHOLE
        self._run_file, self._failures_file = Path(RUN_FILE), Path(FAILURES_FILE)
        self.spell: Callable[[object], str] = str
        self.total = 0
        self._failures: list[dict[str, str]] = []
        self._begun = False
        self._started, self._clock = now(), time.monotonic()

    # --- for the commands ---

    def into(self, output: Output, shard: Shard = WHOLE) -> None:
        """Say where the files go. Refuses a folder with files made in another way, removes what killed runs left.

        shard  this command's part of the list; the records of the other parts are theirs
        """
        check_same_settings(output)
        sweep_leftovers(output.folder)
        self.output, self.shard = output, shard
        run_name, failures_name = record_names(shard)
        self._run_file, self._failures_file = output.folder / run_name, output.folder / failures_name

    def failed(self, failures: Iterable[tuple[str, str]], stage: str = "data") -> None:
        """Book (id, reason) of images that failed before the work on the list began."""
        for image_id, reason in failures:
            self.add(console.Outcome(image_id, "failed", reason), stage)

    def follow(self, outcomes: Iterable[console.Outcome], total: int, title: str) -> None:
        """Draw all outcomes, with a progress bar on a terminal, and book them; on the way out what has begun is ended.

        run.json is written after the first one: until then the stage may refuse the folder.
        """
        try:
            self.start(total)
            for outcome in console.progress(outcomes, total, title, len(self.tally.failures)):
                self._begin()
                self.add(outcome)
            self._begin()
        finally:
            if isinstance(outcomes, Iterator) and hasattr(outcomes, "close"):
                outcomes.close()

    def start(self, total: int) -> None:
        """Say that the work on so many images begins."""
        self.total = total + len(self.tally.failures)
        self.events.tell("started", command=self.name, arguments=self.typed, images=self.total)

    def add(self, outcome: console.Outcome, stage: str = "") -> None:
        """Book one outcome."""
        outcome = replace(outcome, reason=" ".join(self.spell(outcome.reason).split()))
        self.tally.add(outcome)
        if outcome.status == "failed":
            failure = {"id": outcome.id, "stage": stage or self.stage, "reason": outcome.reason}
            self._failures.append(failure)
            self._append([failure])
            self.events.tell("failed", **failure)
        else:
            note = {"note": outcome.note} if outcome.note else {}
            self.events.tell("image", id=outcome.id, status=outcome.status, **note)

    def scored(self, result: dict[str, Any]) -> None:
        """Keep the scores of a summary (report/scores.py) for run.json and the last event."""
        self.scores = {key: result[key] for key in SCORES if key in result}

    def report(self, what: str = "", where: object = "") -> int:
        """Print the counts (with `what`) and the failures; the exit code that follows from them."""
        if self.events.alone:  # they are told already
            return EXIT_INCOMPLETE if self.tally.failures else EXIT_OK
        return self.tally.report(what, self.spell(where)) if what else console.list_failures(self.tally.failures)

    def through(self, body: Callable[[], int]) -> int:
        """Run the body and write down how it ended; returns its exit code."""
        with closing(self.events):
            return self._through(body)

    def _through(self, body: Callable[[], int]) -> int:
        try:
            self.events.open()
            code = body()
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            for last in (self._settle, self._tell_end):
                with suppress(OSError, UserError, StopRun):  # what ended the run matters more
                    last(status)
            if isinstance(error, StopRun):
                needs = self._needs() if "cannot be written" in str(error) else ""
                raise StopRun(f"{error}{needs}") from error
            raise
        status = "done" if code == EXIT_OK else "incomplete"
        self._settle(status)
        self._tell_end(status)
        return code

    # --- files ---

    def _begin(self) -> None:
        if self.output is None or self._begun:
            return
        self._begun = True
        _remove(self._failures_file)  # those of an earlier run
        for record in records_of_other_splits(self.output.folder, self.shard):
            _remove(record)
        self._write_record("running")
        self._append(self._failures)

    def _append(self, failures: list[dict[str, str]]) -> None:
        """Add lines to failures.jsonl, so that they are there whatever happens to this process."""
        if self.output is None or not self._begun or not failures:
            return
        path = self._failures_file
        try:
            opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            with os.fdopen(opened, "a", encoding="utf-8") as stream:
                stream.write("".join(map(as_line, failures)))
        except OSError as error:
            raise cannot_write(path, error) from error

    def _settle(self, status: str) -> None:
        """The files as they stay."""
        if self.output is not None and self._begun:
            sweep_leftovers(self.output.folder)  # of workers that died
            _rewrite(self._failures_file, self._in_order(self.output.ids))
            self._write_record(status)

    def _tell_end(self, status: str) -> None:
        self.events.tell("finished", status=status, counts=self._counts(), **self._known_scores())

    def _in_order(self, ids: Sequence[str]) -> list[dict[str, str]]:
        """The failures in the order of the list, whoever worked on them when; then those of ids that it lacks."""
        places = {image_id: place for place, image_id in enumerate(ids)}
        return sorted(self._failures, key=lambda failure: places.get(failure["id"], len(places)))

    def _write_record(self, status: str) -> None:
        assert self.output is not None
        record = {
            "format": FORMAT,
            "command": self.name,
            "arguments": self.typed,
            "status": status,
            "started": self._started,
            "ended": None if status == "running" else now(),
            "seconds": round(time.monotonic() - self._clock, 3),
            "counts": self._counts(),
            "device": self.output.device,
            **({"shard": "{}/{}".format(*self.shard)} if self.shard != WHOLE else {}),
            "suffix": self.output.suffix,
            "settings": dict(self.output.settings),
            "code": code_version(),
            "versions": versions(),
            **self._known_scores(),
        }
        write_text(self._run_file, json.dumps(record, indent=2) + "\n")

    def _known_scores(self) -> dict[str, Any]:
        return {"scores": self.scores} if self.scores else {}

    def _counts(self) -> dict[str, Any]:
        tally = self.tally
        counted = {"images": self.total, "made": tally.made, "kept": tally.kept, "failed": len(tally.failures)}
        return {**counted, "notes": dict(tally.notes)}

    def _needs(self) -> str:
        """What is left to do, the room it takes, going by the files that are there, and the room there is."""
        if self.output is None:
            return "; make room"
        sizes = {image_id: _size_on_disk(self.output.file(image_id)) for image_id in self.output.ids}
        there, left = [size for size in sizes.values() if size], self._left(sizes)
        need = f", which need about {_in_units(left * sum(there) / len(there))}" if there else ""
        free = _in_units(shutil.disk_usage(self.output.folder).free)
        return f"; {left} of {len(self.output.ids)} images are left{need}, {free} are free; make room"

    def _left(self, sizes: Mapping[str, int]) -> int:
        """How many images have still to be made, given the sizes of the files that are there."""
        assert self.output is not None
        failed = {failure["id"] for failure in self._failures}
        waiting = [image_id for image_id in sizes if image_id not in failed]
        if self.output.overwrite:  # those that are there do not count
            return len(waiting) - self.tally.made
        return sum(not sizes[image_id] for image_id in waiting)


def _rewrite(path: Path, failures: list[dict[str, str]]) -> None:
    """The failures and nothing else in the file; no file without any."""
    if not failures:
        _remove(path)
        return
    with atomic_write(path) as stream:
        stream.writelines(as_line(failure).encode() for failure in failures)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # a folder of that name
        raise cannot_write(path, error) from error


def _size_on_disk(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return 0
    return max(found.st_size, found.st_blocks * 512)


def _in_units(size: float) -> str:
    """Bytes for people."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"
