"""JSON lines that tell programs what a command does, as it does it."""

import io
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from cli.run_record import now
from common.errors import StopRun
from common.files import cannot_write, check_place

STDERR = "-"  # --log_json without a file


def as_line(facts: dict[str, Any]) -> str:
    """One line of plain ASCII, whatever is in it."""
    return json.dumps(facts) + "\n"


class Events:
    """One JSON line an event, flushed as it happens, with the time and the seconds since the start.

    alone  whether they have stderr to themselves: then stdout stays empty, and no text is written for people
    """

    def __init__(self, where: str | None) -> None:
        self.alone = where == STDERR
        self._file = None if where is None or self.alone else Path(where)
        self._stream: IO[str] | None = sys.stderr if self.alone else None
        self._clock = time.monotonic()

    def open(self) -> None:
        """Open the file, if there is one, to add to it; raises UserError when that cannot be."""
        if self._file is None:
            return
        check_place(self._file, "--log_json", "log.jsonl")
        try:
            self._stream = self._file.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise cannot_write(self._file, error) from error

    def tell(self, event: str, **facts: Any) -> None:
        """Write one event; a file that cannot be written ends the run."""
        if self._stream is None:
            return
        seconds = round(time.monotonic() - self._clock, 3)
        try:
            self._stream.write(as_line({"event": event, "time": now(), "seconds": seconds, **facts}))
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StopRun(f"--log_json {self._file}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None and self._stream is not None:
            with suppress(OSError):  # full, which has been told
                self._stream.close()
            self._stream = None


class AsEvents(io.TextIOBase):
    """A stderr whose lines become events: warnings and errors that are written for people."""

    def __init__(self, events: Events) -> None:
        self._events, self._open_line = events, ""

    def write(self, text: str) -> int:
        *lines, self._open_line = (self._open_line + text).split("\n")
        for line in lines:
            if line.strip():
                self._events.tell("message", text=line)
        return len(text)
