"""How commands end and what they say."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from common.console import Outcome, Tally, list_failures, progress, run
from common.errors import UserError
from tests.support import ROOT


def raising(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("body", "code", "err"),
    [
        (lambda: 0, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UserError("x.png: damaged")), 2, "error: x.png: damaged\n"),
    ],
)
def test_ends(body: Callable[[], int], code: int, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(body) == code
    assert capsys.readouterr().err == err


def test_ctrl_c_ends_in_130_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(KeyboardInterrupt())) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_a_reader_that_has_enough_does_not_hide_that_work_is_left() -> None:
    """`command | head -1` ends in one line, and not as if all were done."""
    work = "[print('x' * 1000) for _ in range(9999)] and 0"
    code = f"from common.console import run\nraise SystemExit(run(lambda: {work}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read().startswith(b"error: stdout was closed before all was done")
        assert process.wait() == 3


def test_counts_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for outcome in (
        Outcome("a", "made"),
        Outcome("b", "kept"),
        Outcome("c", "failed", "no such image"),
        Outcome("d", "made"),
    ):
        tally.add(outcome)
    assert tally.report("masks", "out") == 3
    captured = capsys.readouterr()
    assert captured.out == "2 masks written, 1 already there in out\n"
    assert captured.err == "1 image failed:\n  c: no such image\n"


def test_nothing_failed_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert Tally(made=1).report("CAM files", "out") == 0
    assert capsys.readouterr() == ("1 CAM files written in out\n", "")


@pytest.mark.parametrize(("count", "listed", "more"), [(20, 20, ""), (23, 20, "... and 3 more")])
def test_long_lists_of_failures_are_cut(count: int, listed: int, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_failures([(f"id{number}", "bad") for number in range(count)]) == 3
    err = capsys.readouterr().err
    assert err.count(": bad") == listed and f"{count} images failed" in err and more in err


def test_progress_passes_everything_on() -> None:
    outcomes = [Outcome("a", "made"), Outcome("b", "failed", "x")]
    assert list(progress(iter(outcomes), 2, "CAMs")) == outcomes
