"""Commands watched from outside: exit codes, words, memory, and that nothing of them is left."""

import signal
import sys
from pathlib import Path

import pytest

from benchmarks.started import Hangs, bound_by_rights, started

SLEEPS = ["-c", "import time; print('begun', flush=True); time.sleep(600)"]
PARENT = ["-c", f"import subprocess, sys; subprocess.run([sys.executable, *{SLEEPS!r}])"]


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.abort()", 134)])
def test_exit_codes_are_as_a_shell_tells_them(body: str, code: int) -> None:
    with started(["-c", body]) as running:
        assert running.wait() == code


def test_what_is_said_can_be_read_while_it_works_and_after_its_end() -> None:
    with started(["-c", "import sys; print('one', flush=True); sys.stdin.read(); print('two', file=sys.stderr)"]) as it:
        it.wait(until=lambda: "one" in it.said)
        it.wait()
    assert it.said == "one\ntwo\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_whole_group(number: signal.Signals) -> None:
    with started(PARENT) as running:
        running.wait(until=lambda: "begun" in running.said)
        assert len(running.kin("time.sleep(600)")) == 1
        assert running.send(number) == 128 + number or number == signal.SIGINT  # Python tells of Ctrl-C in its own way
        assert not running.kin()


def test_what_is_left_of_the_group_ends_with_the_block() -> None:
    with started(PARENT) as running:
        running.wait(until=lambda: "begun" in running.said)
        assert running.send(signal.SIGKILL, alone=True) == 137 and len(running.kin()) == 1
    assert not running.kin()


def test_a_command_that_does_not_end_is_told() -> None:
    with pytest.raises(Hangs, match=r"did not end in 0 s"), started(SLEEPS) as running:
        running.wait(patience_s=0.05)
    assert running.code == 137


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the peak is read from /proc")
def test_the_peak_is_the_most_that_was_ever_held() -> None:
    body = "import time; x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096]); del x; time.sleep(0.2)"
    with started(["-c", body]) as running:
        running.wait()
    assert running.peak_mb is not None and 200 < running.peak_mb < 260


def test_rights_bind_even_root(tmp_path: Path) -> None:
    prefix, secret = bound_by_rights(), tmp_path / "secret"
    if prefix is None:
        pytest.skip("root here cannot give its rights away")
    secret.write_text("x")
    secret.chmod(0)
    with started(["-c", f"open({str(secret)!r})"], prefix) as running:
        assert running.wait() == 1 and "PermissionError" in running.said, sys.platform
