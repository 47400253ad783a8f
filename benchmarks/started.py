"""Commands as a user starts them, watched from outside: how they end, what they say, the memory they hold.

Each runs in a process group of its own, all of which ends with the `with` block.
"""

import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.measure import ROOT

POLL_S = 0.005
PATIENCE_S = 3600  # a command that takes longer hangs
KILLED = 128 + signal.SIGKILL  # exit codes of ended commands are as a shell tells them
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}  # so that sums have one order, whatever the machine
NO_TALK = {"PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}  # of what killed processes held
HEAVY = ["torch", "clip.load", "numba", "cv2", "PIL.Image", "lxml.etree", "pipeline.stages.run", "scripts.run"]


class Hangs(Exception):
    """A command that does not end."""


@dataclass(eq=False)
class Started:
    """A command at work, or after its end.

    id       of its first process, and of its group
    peak_mb  the most memory (resident) that its first process was seen to hold; None where the system does not tell
    """

    id: int
    _poll: Callable[[], int | None]
    _output: IO[bytes]
    peak_mb: float | None = None
    _words: str = ""

    @property
    def said(self) -> str:
        """All that it wrote to stdout and stderr."""
        if not self._output.closed:
            self._output.seek(0)
            self._words = self._output.read().decode(errors="replace")
        return self._words

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
        """The ids of the other processes of its group, and of its children, that live and have the word in their call.

        torchrun gives its children groups of their own.
        """
        asked = ["ps", "-axwwo", "pid=,ppid=,pgid=,stat=,command="]
        listed = subprocess.run(asked, capture_output=True, text=True, check=True, errors="replace").stdout
        rows = (line.split(None, 4) for line in listed.splitlines())
        own = (row for row in rows if str(self.id) in row[1:3] and row[0] != str(self.id))
        return [int(row[0]) for row in own if row[3][0] != "Z" and word in row[-1]]


@contextmanager
def started(argv: Sequence[object], before: Sequence[str] = (), warm: bool = False) -> Iterator[Started]:
    """Start `python ARGV` in the folder of the project, with one thread for torch.

    before  a command that takes this one as its arguments, such as setpriv
    warm    fork it from a process that has imported what takes long to import; for this project's commands
    """
    with tempfile.NamedTemporaryFile() as output:
        start = _forked if warm else _spawned
        running = start([*before] if not warm else [], [str(part) for part in argv], output)
        try:
            yield running
        finally:
            _end(running)
            running._words = running.said


def _end(running: Started) -> None:
    kin = running.kin()
    if running.code is None:
        os.killpg(running.id, signal.SIGKILL)
    for process in kin:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    running.wait()


def _spawned(before: list[str], argv: list[str], output: "IO[bytes]") -> Started:
    with Path(output.name).open("ab") as words:
        process = subprocess.Popen(
            [*before, sys.executable, *argv],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,
            preexec_fn=_listen,
        )
    return Started(process.pid, process.poll, output)


def _forked(_: list[str], argv: list[str], output: "IO[bytes]") -> Started:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    name, *rest = argv[1:] if argv[0] == "-m" else [argv[0].removesuffix(".py"), *argv[1:]]
    process = context.Process(target=_be, args=(name, rest, output.name))
    with _environment({**ONE_THREAD, **NO_TALK}):
        process.start()
    assert process.pid is not None
    running = Started(process.pid, lambda: process.exitcode, output)
    running.wait(until=lambda: _leads_a_group(running.id))
    return running


def _leads_a_group(process: int) -> bool:
    try:
        return os.getpgid(process) == process
    except ProcessLookupError:  # it has just ended
        return True


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """For processes that get this one's."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})


def _be(name: str, argv: list[str], output: str) -> None:
    """In a forked process: be the command."""
    words = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(words, stream)
    os.chdir(ROOT)
    _listen()
    os.setsid()
    code = importlib.import_module(name).main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _listen() -> None:
    """In the new process: Ctrl-C counts, also where this program was started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _peak_mb(process: int) -> float | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    told = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")]
    return told[0] if told else None


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
