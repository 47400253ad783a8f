"""Commands in processes of their own that start at once: forked from one that has imported what takes long to import.

Run as a program it reads orders from stdin, one JSON line each, and answers each with a number:
{"start": module, "argv": [...], "said": FILE, "largest": BYTES or null}   the process's id
{"ended": id}   its exit code, 128 + N for one that signal N ended, -1 while it lives
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import ROOT

HEAVY = ("torch", "clip.load", "numba", "cv2", "pipeline.stages.cams", "pipeline.stages.run", "scripts.run")


class Forks:
    """The process that forks."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.forks"]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone
        )

    def start(self, module: str, *argv: object, largest: int | None = None) -> "Running":
        """Start `main(argv)` of a module; `largest`: no file can grow beyond that."""
        self.count += 1
        said = self.folder / f"said {self.count}.txt"
        return Running(self, self.order(start=module, argv=[*map(str, argv)], said=str(said), largest=largest), said)

    def order(self, **order: Any) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@dataclass
class Running:
    """A command in a process of its own; what it says goes into a file."""

    forks: Forks
    id: int
    file: Path
    code: int = field(default=-1)

    @property
    def said(self) -> str:
        return self.file.read_text()

    def ended(self) -> bool:
        if self.code < 0:
            self.code = self.forks.order(ended=self.id)
        return self.code >= 0

    def wait(self, until: Callable[[], bool] = lambda: False) -> int:
        """Wait for its end, or until something else is so; its exit code, or -1."""
        while not self.ended() and not until():
            time.sleep(0.005)
        return self.code

    def send(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        if not self.ended():
            os.kill(self.id, number)
        return self.wait()


# --- in the process that forks --------------------------------------------------------------------


def _start(order: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        said = os.open(order["said"], os.O_WRONLY | os.O_CREAT)
        for number, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (said, 1), (said, 2)):
            os.dup2(number, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        if order["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"],) * 2)
        code = importlib.import_module(order["start"]).main(order["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(child: int) -> int:
    ended, status = os.waitpid(child, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status)
    return -1 if not ended else code if code >= 0 else 128 - code


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        print(_start(order) if "start" in order else _ended(order["ended"]), flush=True)


if __name__ == "__main__":
    main()
