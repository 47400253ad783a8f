"""run.json, failures.jsonl and JSON lines: what they hold, when, and how every ending shows in them."""

import argparse
import errno
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.options import Parser, add_log_options
from cli.run_log import RunLog, run
from cli.run_record import Output, check_same_settings, code_version, read_record
from common.errors import StopRun, UserError
from common.files import write_text
from common.outcome import Outcome
from common.version import VERSION
from tests.made import made
from tests.support import ROOT, tree

SETTINGS = {"model": "0123", "scales": (1.0, 0.5)}
Body = Callable[[argparse.Namespace, RunLog], int]


class Command:
    """A command that "makes" text files for the ids of given outcomes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = list("abcdef")

    def output(self, **other: Any) -> Output:
        facts = {"ids": self.ids, "settings": SETTINGS, "device": "cpu", **other}
        return Output(self.folder, ".txt", "--out", **facts)

    def making(self, *outcomes: Outcome | BaseException, **other: Any) -> Body:
        """The body of a command: what is made is written, what can be raised is."""

        def working() -> Iterator[Outcome]:
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome.status == "made":
                    write_text(self.folder / f"{outcome.id}.txt", outcome.id)
                yield outcome

        def body(args: argparse.Namespace, log: RunLog) -> int:
            log.failed([("lost", "no such image")])
            log.write_to(self.output(**other))
            log.follow(working(), len(outcomes), "texts")
            return log.report("texts", self.folder)

        return body

    def run(self, body: Body, *argv: str) -> int:
        parser = Parser("test")
        add_log_options(parser)
        return run("-m tests.texts", "texts", argv, parser.parse_args(argv), body)

    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text())

    def failures(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.folder / "failures.jsonl").read_text().splitlines()]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "out").mkdir()
    return Command(tmp_path / "out")


def ok(*names: str) -> list[Outcome]:
    return [Outcome(name, "made") for name in names]


BAD = Outcome("c", "failed", "c.jpg: damaged\nin two lines")


# --- run.json -------------------------------------------------------------------------------------


def test_the_record_of_a_run(command: Command) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    outcomes = [*ok("a"), Outcome("b", "kept"), BAD, Outcome("d", "made", note="on the CPU")]
    assert command.run(command.making(*outcomes), "--quiet") == 3
    record = command.record()
    assert record["command"] == "-m tests.texts" and record["arguments"] == ["--quiet"]
    assert record["settings"] == {"model": "0123", "scales": [1.0, 0.5]} and record["device"] == "cpu"
    assert record["status"] == "incomplete"
    assert record["counts"] == {"images": 5, "made": 2, "kept": 1, "failed": 2, "notes": {"on the CPU": 1}}
    started, ended = (datetime.fromisoformat(record[key]) for key in ("started", "ended"))
    assert before <= started <= ended <= datetime.now(timezone.utc) and 0 <= record["seconds"] < 60
    assert record["versions"]["python"] == platform.python_version() and record["versions"]["numpy"] == np.__version__
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"numba", "opencv", "platform"} <= record["versions"].keys() and "scores" not in record


def test_scores_are_kept(command: Command) -> None:
    def body(args: argparse.Namespace, log: RunLog) -> int:
        code = command.making(*ok("a"))(args, log)
        log.add_scores({"miou": 0.5, "classes": {"cat": None}, "pixels": 7})
        return code

    command.run(body)
    assert command.record()["scores"] == {"miou": 0.5, "classes": {"cat": None}}


def test_the_commit_is_that_of_the_checkout() -> None:
    asked = subprocess.run(["git", "log", "-1", "--format=%H"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = code_version()
    assert found["version"] == VERSION
    if (ROOT / ".git").exists() and asked.returncode == 0:
        assert found["git"] == asked.stdout.strip()
    else:
        assert "git" not in found


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(KeyboardInterrupt(), "interrupted", 130), (StopRun("no room"), "stopped", 3), (UserError("bad"), "stopped", 2)],
)
def test_how_a_run_ended(command: Command, error: BaseException, status: str, code: int) -> None:
    assert command.run(command.making(*ok("a"), BAD, error)) == code
    record = command.record()
    assert record["status"] == status and record["counts"]["made"] == 1 and record["counts"]["failed"] == 2
    assert [failure["id"] for failure in command.failures()] == ["c", "lost"]


def test_while_it_runs_it_says_so_and_failures_can_be_read(command: Command) -> None:
    """What is on the disk then is what kill -9 leaves."""
    seen: list[Any] = []

    def outcomes() -> Iterator[Outcome]:
        yield from ok("a")
        seen.append((command.record(), command.failures()))
        yield BAD
        seen.append(command.failures())

    def body(args: argparse.Namespace, log: RunLog) -> int:
        log.failed([("lost", "no such image")])
        log.write_to(command.output())
        log.follow(outcomes(), 2, "texts")
        return log.report("texts")

    assert command.run(body) == 3
    (record, first), second = seen
    assert record["status"] == "running" and record["ended"] is None
    assert [failure["id"] for failure in first] == ["lost"] and [failure["id"] for failure in second] == ["lost", "c"]


def test_a_stage_that_refuses_the_folder_changes_nothing(command: Command) -> None:
    command.run(command.making(*ok("a"), BAD))
    before = tree(command.folder)
    assert command.run(command.making(UserError("a.txt: made for other labels"))) == 2
    assert tree(command.folder) == before


# --- failures.jsonl -------------------------------------------------------------------------------


def test_failures_stand_in_the_order_of_the_list(command: Command) -> None:
    """Whatever the order in which they came."""
    bad = [Outcome(name, "failed", f"{name} is bad") for name in "dbf"]
    command.run(command.making(bad[0], *ok("a"), bad[1], bad[2]))
    before = made(command.folder)
    assert command.failures() == [
        {"id": "b", "stage": "texts", "reason": "b is bad"},
        {"id": "d", "stage": "texts", "reason": "d is bad"},
        {"id": "f", "stage": "texts", "reason": "f is bad"},
        {"id": "lost", "stage": "data", "reason": "no such image"},
    ]
    command.run(command.making(Outcome("a", "kept"), bad[2], bad[1], bad[0]))
    assert made(command.folder) == before


def test_a_reason_is_one_line_of_plain_json(command: Command) -> None:
    command.run(command.making(Outcome("c", "failed", 'a "b"\n\tc \udcff')))
    lines = (command.folder / "failures.jsonl").read_bytes().decode("ascii").splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["reason"] == 'a "b" c \udcff'


def test_failures_that_are_mended_go(command: Command) -> None:
    def body(args: argparse.Namespace, log: RunLog) -> int:
        log.write_to(command.output())
        log.follow(ok("c"), 1, "texts")
        return log.report("texts")

    command.run(command.making(BAD))
    assert command.run(body) == 0 and command.record()["status"] == "done"
    assert not (command.folder / "failures.jsonl").exists()


def test_a_link_in_place_of_the_file_is_not_followed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    (command.folder / "failures.jsonl").symlink_to(tmp_path / "outside")
    command.run(command.making(BAD))
    assert (tmp_path / "outside").read_text() == "untouched" and len(command.failures()) == 2


# --- a folder that was made in another way --------------------------------------------------------


def test_other_settings_are_refused_with_the_difference(command: Command) -> None:
    command.run(command.making(*ok("a")))
    before = tree(command.folder)
    check_same_settings(command.output(ids=["another"]))
    changed = command.output(settings={**SETTINGS, "scales": (1.0,), "new": 1})
    with pytest.raises(UserError) as caught:
        check_same_settings(changed)
    said = str(caught.value)
    assert "scales [1.0, 0.5] (now [1.0])" in said and "new None (now 1)" in said
    assert said.endswith("; pass --overwrite or another --out") and str(command.folder / "run.json") in said
    check_same_settings(command.output(settings=changed.settings, overwrite=True))
    assert tree(command.folder) == before
    (command.folder / "a.txt").unlink()  # nothing is left to be mixed up with
    check_same_settings(changed)


NONE = [b"", b"{", b"[]", b"null", b"\xff", b'{"format": 1}', b'{"format": 1, "settings": []}', b"[" * 100_000]
OF_ANOTHER_FORM = b'{"format": 99, "settings": {"model": "other"}}'
TOO_LARGE = b'{"format": 1, "settings": {"model": "other"}}'.ljust(1 << 21)


def test_a_record_that_is_damaged_counts_as_absent(command: Command) -> None:
    (command.folder / "a.txt").write_text("a")
    for content in (*NONE, OF_ANOTHER_FORM, TOO_LARGE):
        (command.folder / "run.json").write_bytes(content)
        assert read_record(command.folder / "run.json") is None
        check_same_settings(command.output())
    assert command.run(command.making(*ok("b"))) == 3 and command.record()["status"] == "incomplete"


@pytest.mark.parametrize("name", ["run.json", "failures.jsonl"])
def test_a_folder_in_their_place_is_told(command: Command, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (command.folder / name).mkdir()
    assert command.run(command.making(*ok("a"))) == 2
    assert capsys.readouterr().err.startswith(f"error: {command.folder / name}: cannot be written")


def test_files_of_another_kind_keep_their_record(command: Command) -> None:
    """Masks into the folder of the CAM files, say; --overwrite is not meant for that."""
    assert command.run(command.making(*ok("a"))) == 3
    before = command.record()
    for overwrite in (False, True):
        other = Output(command.folder, ".png", "--masks", command.ids, {"model": "other"}, "cpu", overwrite)
        with pytest.raises(
            UserError, match=r"--masks .*: holds the \.txt files of -m tests\.texts; pass another folder"
        ):
            check_same_settings(other)
    assert command.record() == before
    (command.folder / "a.txt").unlink()  # none is left that the record speaks of
    check_same_settings(Output(command.folder, ".png", "--masks", command.ids, {"model": "other"}, "cpu", True))


def test_what_a_worker_that_died_left_goes_at_the_end_of_the_run(command: Command) -> None:
    left = command.folder / ".77.0123abcd.tmp"

    def body(args: argparse.Namespace, log: RunLog) -> int:
        log.write_to(command.output())
        outcomes = (Outcome(name, "made") for name in "a" if left.write_text("half"))
        log.follow(outcomes, 1, "texts")
        assert left.exists()
        return 0

    (command.folder / "deep").mkdir()
    (command.folder / "deep" / ".77.0123abcd.tmp").write_text("half")  # of a run that was killed before
    assert command.run(body) == 0
    assert made(command.folder).keys() == set()


def test_every_shard_has_records_of_its_own(command: Command) -> None:
    """Those of another split go; the first shard writes the folder's run.json."""

    def body(shard: tuple[int, int], *outcomes: Outcome) -> Body:
        def working(args: argparse.Namespace, log: RunLog) -> int:
            log.write_to(command.output(), shard)
            log.follow(outcomes, len(outcomes), "texts")
            return log.report("texts")

        return working

    for index in range(3):
        assert command.run(body((index, 3), BAD)) == 3
    assert command.run(body((0, 2), *ok("a", "b"))) == 0
    assert command.run(body((1, 2), BAD, *ok("d"))) == 3
    assert tree(command.folder).keys() == {"run.json", "run-1-of-2.json", "failures-1-of-2.jsonl"}
    assert command.record()["counts"]["made"] == 2 and command.record()["shard"] == "0/2"
    assert json.loads((command.folder / "run-1-of-2.json").read_text())["counts"]["failed"] == 1
    assert command.run(body((0, 1), *ok("a", "b"))) == 0
    assert tree(command.folder).keys() == {"run.json"} and "shard" not in command.record()


# --- a full disk ----------------------------------------------------------------------------------


def test_a_full_disk_says_what_is_needed(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of six files are there: four are left, and need as much each, as far as one can tell."""
    for name in "ab":
        (command.folder / f"{name}.txt").write_bytes(b"x" * 40_960)
    monkeypatch.setattr("shutil.disk_usage", lambda _: argparse.Namespace(free=1_999_999_999))
    outcomes = [Outcome(name, "kept") for name in "ab"]

    def body(args: argparse.Namespace, log: RunLog) -> int:
        log.write_to(command.output())
        log.follow(stopped(), 6, "texts")
        return 0

    def stopped() -> Iterator[Outcome]:
        yield from outcomes
        raise StopRun("c.txt: cannot be written (No space left on device)")

    assert command.run(body, "--quiet") == 3
    told = capsys.readouterr().err.splitlines()
    said = "4 of 6 images are left, which need about 163.8 kB, 2.0 GB are free; make room"
    assert told == [
        f"stopped: c.txt: cannot be written (No space left on device); {said}",
        "continue with: python -m tests.texts --quiet",
    ]
    assert command.record()["status"] == "stopped"


def test_a_log_that_cannot_be_written_ends_the_run(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "log").symlink_to("/dev/full")
    assert command.run(command.making(*ok("a")), "--log_json", str(tmp_path / "log")) == 3
    assert capsys.readouterr().err.startswith(f"stopped: --log_json {tmp_path / 'log'}: cannot be written (No space")


def test_failures_that_cannot_be_written_end_the_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *mode: str, **options: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def outcomes() -> Iterator[Outcome]:
        yield from ok("a")
        monkeypatch.setattr(Path, "open", full)
        yield BAD
        raise AssertionError("it went on")

    def body(args: argparse.Namespace, log: RunLog) -> int:
        log.write_to(command.output())
        log.follow(outcomes(), 2, "texts")
        return 0

    assert command.run(body) == 3


# --- events ---------------------------------------------------------------------------------------


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_line_an_event(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "log.jsonl"
    body = command.making(*ok("a"), BAD, Outcome("d", "made", note="on the CPU"))
    assert command.run(body, "--log_json", str(log)) == 3
    told = lines(log.read_text())
    assert [event["event"] for event in told] == ["failed", "started", "image", "failed", "image", "finished"]
    assert [event["seconds"] for event in told] == sorted(event["seconds"] for event in told)
    assert all(datetime.fromisoformat(event["time"]).tzinfo for event in told)
    assert told[1]["images"] == 4 and told[1]["arguments"] == ["--log_json", str(log)]
    assert told[2]["id"] == "a" and told[2]["status"] == "made" and "note" not in told[2]
    assert told[3]["id"] == "c" and told[3]["reason"] == "c.jpg: damaged in two lines" and told[3]["stage"] == "texts"
    assert told[4]["note"] == "on the CPU"
    assert told[5]["status"] == "incomplete" and told[5]["counts"] == command.record()["counts"]
    captured = capsys.readouterr()
    assert "2 texts written" in captured.out and "2 images failed" in captured.err
    assert command.run(body, "--log_json", str(log)) == 3  # added to, so that nothing is lost
    assert len(lines(log.read_text())) == 12


def test_without_a_file_stderr_holds_nothing_else(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    def warning(args: argparse.Namespace, log: RunLog) -> int:
        print("for people")
        print("warning: something", file=sys.stderr)
        return command.making(*ok("a"), UserError("broken"))(args, log)

    assert command.run(warning, "--log_json") == 2
    captured = capsys.readouterr()
    told = lines(captured.err)
    assert captured.out == ""
    assert [event["event"] for event in told] == ["message", "failed", "started", "image", "finished", "message"]
    assert told[0]["text"] == "warning: something" and told[-1]["text"] == "error: broken"
    assert told[-2]["status"] == "stopped"
    print("as before", file=sys.stderr)
    assert capsys.readouterr().err == "as before\n"


def test_a_log_in_an_impossible_place_is_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(command.making(*ok("a")), "--log_json", str(tmp_path)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --log_json {tmp_path}: a folder") and err.count("\n") == 1
    assert not tree(command.folder)


def test_quiet_shows_only_what_failed(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(command.making(*ok("a"), BAD), "--quiet") == 3
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("2 images failed:\n")


def test_a_command_that_writes_no_files_leaves_none(command: Command) -> None:
    def body(args: argparse.Namespace, log: RunLog) -> int:
        log.follow([*ok("a"), BAD], 2, "scores")
        return log.report()

    assert command.run(body) == 3 and not tree(command.folder)


def test_work_is_ended_before_the_run_is_written_down(command: Command) -> None:
    """Files in flight are finished first, whichever line Ctrl-C hits."""
    seen: list[str] = []

    class Pressed(RunLog):
        def add(self, outcome: Outcome, stage: str = "") -> None:
            raise KeyboardInterrupt

    def outcomes() -> Iterator[Outcome]:
        try:
            yield from ok("a")
        finally:
            seen.append(command.record()["status"])

    def body(args: argparse.Namespace, log: RunLog) -> int:
        log.write_to(command.output())
        log.__class__ = Pressed
        log.follow(outcomes(), 1, "texts")
        return 0

    assert command.run(body) == 130 and seen == ["running"] and command.record()["status"] == "interrupted"
