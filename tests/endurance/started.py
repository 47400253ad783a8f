"""Commands as a user starts them, watched from outside: how they end, what they say, the memory they hold."""

import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

POLL_S = 0.005
PATIENCE_S = 3600  # a command that takes longer hangs
KILLED = 128 + signal.SIGKILL  # exit codes are as a shell shows them
QUIET = {  # one thread, so that sums have one order on every machine; no warnings of what killed processes held
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
}
HEAVY = ["torch", "clip.load", "numba", "cv2", "PIL.Image", "lxml.etree", "pipeline.stages.run", "scripts.run"]


class Hangs(Exception):
    """A command that does not end."""


@dataclass(eq=False)
class Started:
    """A command at work, or after its end. As a context manager it ends all of its processes.

    id       of its first process, and of its process group
    file     gets what it writes to stdout and stderr
    peak_mb  the most memory (resident) that its first process was seen to hold; None where the system does not say
    """

    id: int
    file: Path
    _poll: Callable[[], int | None]
    peak_mb: float | None = None

    @property
    def said(self) -> str:
        return self.file.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """The exit code, 128 + N for a process that signal N ended; None while it runs."""
        code = self._poll()
        return 128 - code if code is not None and code < 0 else code

    def wait(self, until: Callable[[], bool] = lambda: False, patience_s: float = PATIENCE_S) -> int | None:
        """Wait for its end, or until something else is so; its exit code, if it has ended. Raises Hangs."""
        deadline = time.monotonic() + patience_s
        while self.code is None and not until():
            self.peak_mb = _peak_mb(self.id) or self.peak_mb
            if time.monotonic() > deadline:
                raise Hangs(f"it did not end in {patience_s:.0f} s: {self.said[-300:]}")
            time.sleep(POLL_S)
        return self.code

    def send(self, number: signal.Signals, alone: bool = False) -> int | None:
        """Send a signal to the whole group, as a terminal does, or to the first process alone; wait for its end."""
        with suppress(ProcessLookupError):
            if self.code is None:
                (os.kill if alone else os.killpg)(self.id, number)
        return self.wait()

    def kin(self, word: str = "") -> list[int]:
        """The ids of the other living processes of its group, and of its children, whose call has the word in it."""
        asked = ["ps", "-axwwo", "pid=,ppid=,pgid=,stat=,command="]
        listed = subprocess.run(asked, capture_output=True, text=True, check=True, errors="replace").stdout
        rows = (line.split(None, 4) for line in listed.splitlines())
        own = (row for row in rows if str(self.id) in row[1:3] and row[0] != str(self.id))
        return [int(row[0]) for row in own if row[3][0] != "Z" and word in row[-1]]

    def wait_for_kin(self, patience_s: float) -> None:
        """Wait until its other processes have ended by themselves."""
        deadline = time.monotonic() + patience_s
        while processes := self.kin():
            assert time.monotonic() < deadline, f"processes {processes} outlive their parent"
            time.sleep(POLL_S)

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *error: object) -> None:
        for process in [*self.kin(), *([self.id] if self.code is None else [])]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.wait()


def spawn(argv: Sequence[object], said: Path, before: Sequence[str] = ()) -> Started:
    """Start `python ARGV`; `before`: a command that takes this one as its arguments, such as setpriv."""
    with said.open("wb") as words:
        process = subprocess.Popen(
            [*before, sys.executable, *map(str, argv)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            env=quiet_environment(),
            start_new_session=True,
            preexec_fn=_listen,
        )
    return Started(process.pid, said, process.poll)


def fork(module: str, argv: Sequence[object], said: Path, largest: int | None = None) -> Started:
    """Start `main(argv)` of a module at once, from a process that has imported what takes long to import.

    largest  no file can grow beyond so many bytes, as with `ulimit -f`
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    said.touch()
    process = context.Process(target=_be, args=(module, [*map(str, argv)], str(said), largest))
    with _environment():
        process.start()
    assert process.pid is not None
    running = Started(process.pid, said, lambda: process.exitcode)
    running.wait(until=lambda: _leads_a_group(running.id))
    return running


def quiet_environment() -> dict[str, str]:
    """This process's, but with the user's cache, which holds compiled code, in place of the test's."""
    return {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"} | QUIET


def _leads_a_group(process: int) -> bool:
    try:
        return os.getpgid(process) == process
    except ProcessLookupError:  # it has just ended
        return True


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(quiet_environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _be(module: str, argv: list[str], said: str, largest: int | None) -> None:
    """In a forked process: be the command."""
    words = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(words, stream)
    os.chdir(ROOT)
    _listen()
    os.setsid()
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    code = importlib.import_module(module).main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _listen() -> None:
    """In the new process: Ctrl-C counts, also where the tests were started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _peak_mb(process: int) -> float | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    peaks = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else None


def bound_by_rights() -> list[str] | None:
    """What to put before a command so that it cannot read what its rights forbid; None where that cannot be.

    Root reads everything, unless it gives that right away.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    given_away = [setpriv or "", "--bounding-set", "-dac_override,-dac_read_search"]
    if setpriv is None or subprocess.run([*given_away, "true"], capture_output=True, check=False).returncode != 0:
        return None
    return given_away
