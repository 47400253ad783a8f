"""How commands end and what they say."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from cli.console import Tally, list_failures, progress, run
from common.errors import StopRun, UserError
from common.outcome import Outcome
from tests.support import ROOT


def raising(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


def test_how_a_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    endings: list[tuple[Callable[[], int], int, str]] = [
        (lambda: 0, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UserError("x.png: damaged")), 2, "error: x.png: damaged\n"),
        (raising(StopRun("no room")), 3, "stopped: no room\n"),
    ]
    for body, code, err in endings:
        assert run(body) == code and capsys.readouterr().err == err
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        run(raising(ZeroDivisionError()))


@pytest.mark.parametrize("error", [StopRun("no room"), KeyboardInterrupt()])
def test_what_was_stopped_names_the_command_that_goes_on(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    run(raising(error), next_command="python generate_cams.py --img_root 'my photos'")
    assert capsys.readouterr().err.endswith("\ncontinue with: python generate_cams.py --img_root 'my photos'\n")


def test_a_stopped_part_of_a_run_names_the_command_of_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: run(raising(KeyboardInterrupt()), "python generate_cams.py"), "python -m scripts.demo") == 130
    assert capsys.readouterr().err.endswith("\ncontinue with: python -m scripts.demo\n")
    run(raising(KeyboardInterrupt()), "python generate_cams.py")
    assert capsys.readouterr().err.endswith("\ncontinue with: python generate_cams.py\n")


# --- signals --------------------------------------------------------------------------------------

WAITING = """
import sys, time
from cli.console import run
def body():
    try:
        print("at work", flush=True)  # not before: the signal may come at once
        time.sleep(60)
    finally:
        print("finishing", flush=True)
        time.sleep(float(sys.argv[1]))
        print("finished", flush=True)
raise SystemExit(run(body, "python again.py"))
"""


def waiting(needs: float) -> "subprocess.Popen[str]":
    """A command at work, that needs so many seconds for what it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(needs)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_finish_what_has_begun(number: signal.Signals, code: int) -> None:
    with waiting(needs=0.1) as process:
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == code and out == "finishing\nfinished\n"
    assert "interrupted" in err and err.endswith("continue with: python again.py\n") and "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_ends_at_once(number: signal.Signals) -> None:
    with waiting(needs=600) as process:
        process.send_signal(number)
        assert process.stdout is not None and process.stdout.readline() == "finishing\n"
        process.send_signal(number)
        assert process.wait() == 128 + number and process.stdout.read() == ""


@pytest.mark.parametrize(("program", "told"), [(ROOT / "generate_cams.py", False), ("/elsewhere/own.py", True)])
def test_ctrl_c_before_a_command_is_at_work_shows_no_traceback(program: object, told: bool) -> None:
    """That of a program which imports the project is its own affair."""
    code = f"import __main__; __main__.__file__ = {str(program)!r}; import cli; raise KeyboardInterrupt"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT and ("Traceback" in ended.stderr) == told
    assert told or ended.stderr == "\ninterrupted\n"


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen: list[object] = []

    def body() -> int:
        seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
        return 0

    assert run(body) == 0 and run(raising(UserError("x"))) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not set(map(id, seen)) & set(map(id, before))


def test_what_the_parent_ignores_stays_ignored() -> None:
    """As under nohup, or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run(lambda: os.kill(os.getpid(), signal.SIGINT) or 0) == 0  # type: ignore[func-returns-value]
    finally:
        signal.signal(signal.SIGINT, before)


# --- what is told ---------------------------------------------------------------------------------


def test_a_reader_that_has_enough_does_not_hide_that_work_is_left() -> None:
    """`command | head -1` ends in one line, and not as if all were done."""
    work = "[print('x' * 1000) for _ in range(9999)] and 0"
    code = f"from cli.console import run\nraise SystemExit(run(lambda: {work}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read().startswith(b"error: stdout was closed before all was done")
        assert process.wait() == 3


def test_counts_reasons_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    made = [Outcome(name, "made", note=note) for name, note in (("a", "on the CPU"), ("d", ""), ("e", "on the CPU"))]
    for outcome in (*made, Outcome("b", "kept"), Outcome("c", "failed", "no such image")):
        tally.add(outcome)
    assert tally.report("masks", "out") == 3
    captured = capsys.readouterr()
    assert captured.out == "3 masks written, 1 already there in out\n2 images: on the CPU (a, e)\n"
    assert captured.err == "1 image failed:\n  c: no such image\n"
    assert Tally(made=1).report("CAM files", "out") == 0
    assert capsys.readouterr() == ("1 CAM file written in out\n", "")


@pytest.mark.parametrize(("count", "listed", "more"), [(20, 20, ""), (23, 20, "... and 3 more")])
def test_long_lists_of_failures_are_cut(count: int, listed: int, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_failures([(f"id{number}", "bad") for number in range(count)]) == 3
    err = capsys.readouterr().err
    assert err.count(": bad") == listed and f"{count} images failed" in err and more in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_for_terminals_and_count_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(quiet: bool, stream: io.StringIO) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        outcomes = [Outcome("a", "failed", "x"), Outcome("b", "made"), Outcome("c", "failed", "y")]
        assert run(lambda: len(list(progress(outcomes, 3, "CAMs", failed=1))), quiet=quiet) == 3
        return stream.getvalue()

    bar = shown(False, Terminal())
    assert "CAMs" in bar and "3/3" in bar and "failed=3" in bar
    assert shown(False, io.StringIO()) == "" and shown(True, Terminal()) == ""


def test_quiet_is_about_stdout_only(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        print("for people")
        raise UserError("a mistake")

    assert run(body, quiet=True) == 2
    assert capsys.readouterr() == ("", "error: a mistake\n")
    print("again")
    assert capsys.readouterr().out == "again\n"


# --- signals that get lost ------------------------------------------------------------------------


def lost(how: BaseException | None) -> None:
    """What modules written in C do to the exception of a signal while they import others."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException as error:
        if how:
            raise how from error


@pytest.mark.parametrize("how", [ImportError("numpy.core.multiarray failed to import"), UserError("install open_clip")])
def test_a_signal_that_became_another_error_counts(how: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: lost(how) or 0, next_command="python again.py") == 143  # type: ignore[func-returns-value]
    assert "continue with: python again.py" in capsys.readouterr().err


def test_a_signal_that_was_swallowed_ends_the_next_loop() -> None:
    told = []

    def body() -> int:
        lost(None)
        told.extend(progress((Outcome(name, "made") for name in "abc"), 3, "CAMs"))
        return 0

    assert run(body) == 143 and not told
    assert len(list(progress((Outcome(name, "made") for name in "abc"), 3, "CAMs"))) == 3  # no run, no signal


def work_through_a_list() -> int:
    return len(list(progress((Outcome(name, "made") for name in "abc"), 3, "CAMs")))


def test_a_run_in_another_thread_neither_sees_a_signal_nor_takes_it_away() -> None:
    """The signal is the main thread's, and was swallowed there before the other thread's run began."""
    codes: list[int] = []

    def body() -> int:
        lost(None)
        other = threading.Thread(target=lambda: codes.append(run(work_through_a_list)))
        other.start()
        other.join()
        return work_through_a_list()

    assert run(body) == 143 and codes == [3]
    assert run(work_through_a_list) == 3
