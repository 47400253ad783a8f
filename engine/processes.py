"""Worker processes of one machine that take batches from one list; what a dead one held goes out again.

The parent cuts the list and holds it; a worker asks for the next batch when it has room, so that a slow image holds
nobody else, and the bytes do not depend on who does what. Each worker has a pipe of its own: no lock can be left
behind by one that is killed.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from common.cores import available_cores
from common.errors import EXIT_TERMINATED, StopRun, UserError
from common.outcome import Outcome
from pipeline.stages.batches import Batch

FILES_IN_FLIGHT_S = 5  # how long a worker may take after Ctrl-C, or its parent's end, to finish what it writes
DEATHS_ALONE = 2  # of workers that had nothing but one batch, after which its images fail
DEATHS_IN_A_ROW = 3  # a worker, on average, without a batch that was finished, after which the run stops

Work = Callable[[Iterable[Batch]], Iterator[Outcome]]  # all outcomes of one batch before those of the next
SetUp = Callable[
    [int, Any], Work
]  # a worker's number and the task; a function of a module, as processes get it by name


def run_processes(set_up: SetUp, task: Any, batches: Iterable[Batch], count: int) -> Iterator[Outcome]:
    """Share the batches among `count` processes, each with `set_up(number, task)`; one outcome an image, as they come.

    A worker that dies gives back what it had not finished. Since it cannot be known which batch was to blame, these go
    out again one at a time, to a worker that has nothing else; one on which a worker dies again and again is given up:
    its images fail. Dead workers are started anew.
    Raises UserError when a worker meets one in its set-up, StopRun when a worker does or workers die all the time.
    """
    team = _Team(set_up, task, batches, count)
    try:
        yield from team.outcomes()
    finally:
        team.end()


@dataclass(eq=False)
class _Given:
    """A batch that a worker has, or had.

    due     outcomes that its worker has still to tell
    untold  ids that were not yet told to the caller; a batch may go out twice
    deaths  of workers that had nothing else
    """

    batch: Batch
    due: int = 0
    untold: set[str] = field(default_factory=set)
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """A process as the parent knows it.

    given  what it works on, in order
    alone  whether the one batch it has is suspected of having ended another worker
    asked  whether it waits for an answer
    said   what it told of the error that ended it
    """

    number: int
    process: Any
    pipe: "Connection[Any, Any]"
    given: deque[_Given] = field(default_factory=deque)
    alone: bool = False
    ready: bool = False
    asked: bool = False
    dismissed: bool = False
    said: str = ""


@dataclass(frozen=True)
class _Error:
    """What a worker says before it ends: `kind` is "user", "stop" or "crash"."""

    kind: str
    text: str


_ASK, _PAUSE, _END = "ask", "pause", "end"  # worker: a batch, please; parent: finish what you have; go home


# --- the parent -----------------------------------------------------------------------------------


class _Team:
    """The workers, and what is still to be given out."""

    def __init__(self, set_up: SetUp, task: Any, batches: Iterable[Batch], count: int) -> None:
        self.set_up, self.task, self.count = set_up, task, count
        self.plan = iter(batches)
        self.drawn: _Given | None = None  # the next of the plan
        self.exhausted = False
        self.suspects: deque[_Given] = deque()
        self.workers: list[_Worker] = []
        self.deaths = 0  # in a row

    def outcomes(self) -> Iterator[Outcome]:
        for number in range(self.count):
            self._start(number)
        while self.workers:
            by_pipe = {worker.pipe: worker for worker in self.workers}
            for pipe in wait(list(by_pipe)):
                yield from self._listen(by_pipe[pipe])  # type: ignore[index]
            for worker in self.workers:
                if worker.asked:
                    yield from self._answer(worker)

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(1, available_cores() // self.count)
        process = context.Process(target=_serve, args=(self.set_up, number, threads, theirs))
        try:
            with _ctrl_c_is_ours():
                process.start()
        except OSError as error:
            raise StopRun(f"a worker process cannot be started ({error.strerror or error})") from error
        finally:
            theirs.close()
        self.workers.append(_Worker(number, process, ours))

    # --- listening ---

    def _listen(self, worker: _Worker) -> Iterator[Outcome]:
        """Take one message; a pipe that is closed says that its worker has ended."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._ended(worker)
            return
        if isinstance(message, Outcome):
            yield from self._told(worker, message)
        elif isinstance(message, _Error):
            self._complained(worker, message)
        else:
            worker.asked = True

    def _told(self, worker: _Worker, outcome: Outcome) -> Iterator[Outcome]:
        given = worker.given[0]
        given.due -= 1
        if not given.due:
            worker.given.popleft()
            self.deaths = 0
        if outcome.id in given.untold:
            given.untold.discard(outcome.id)
            yield outcome

    def _complained(self, worker: _Worker, error: _Error) -> None:
        if error.kind == "user":
            raise UserError(error.text)
        if error.kind == "stop":
            raise StopRun(error.text)
        worker.said = error.text

    # --- answering ---

    def _answer(self, worker: _Worker) -> Iterator[Outcome]:
        """Send what the worker asked for; one that has nothing may wait for what another has."""
        if not worker.ready:
            worker.ready = True
            self._send(worker, self.task)
            return
        idle = not worker.given
        if idle and self.suspects:
            self._give(worker, self.suspects.popleft(), alone=True)
            return
        if worker.alone and not idle:
            self._send(worker, _PAUSE)
            return
        yield from self._draw()
        if self.drawn:
            self._give(worker, self.drawn, alone=False)
            self.drawn = None
        elif not idle:
            self._send(worker, _PAUSE)
        elif not any(other.given for other in self.workers):
            worker.dismissed = True
            self._send(worker, _END)

    def _draw(self) -> Iterator[Outcome]:
        """Have the next batch with work at hand, if there is one; what needs none is told."""
        while self.drawn is None and not self.exhausted:
            batch = next(self.plan, None)
            if batch is None:
                self.exhausted = True
                return
            yield from batch.outcomes
            if batch.samples:
                ids = {sample.id for sample in batch.samples}
                self.drawn = _Given(replace(batch, outcomes=[]), untold=ids)

    def _give(self, worker: _Worker, given: _Given, alone: bool) -> None:
        given.due = len(given.batch.samples)
        worker.given.append(given)
        worker.alone = alone
        self._send(worker, given.batch)

    def _send(self, worker: _Worker, message: Any) -> None:
        worker.asked = False
        with suppress(OSError):  # it has ended; its closed pipe will say so
            worker.pipe.send(message)

    # --- ends ---

    def _ended(self, worker: _Worker) -> Iterator[Outcome]:
        self.workers.remove(worker)
        worker.pipe.close()
        _join(worker.process, time.monotonic() + FILES_IN_FLIGHT_S)
        if worker.dismissed:
            return
        self.deaths += 1
        yield from self._take_back(worker)
        if self.deaths > DEATHS_IN_A_ROW * self.count:
            said = f"worker processes end again and again, the last one with {_cause(worker)}"
            raise StopRun(f"{said}; the same command goes on from here")
        if self.suspects or self.drawn or not self.exhausted:
            self._start(worker.number)

    def _take_back(self, worker: _Worker) -> Iterator[Outcome]:
        """What a dead worker had becomes suspected, or is given up."""
        held = list(worker.given)
        if len(held) == 1:
            held[0].deaths += 1
        self.suspects.extend(given for given in held if given.deaths < DEATHS_ALONE)
        for given in held:
            if given.deaths == DEATHS_ALONE:
                self.deaths = 0
                yield from _given_up(given, _cause(worker))

    def end(self) -> None:
        """Let the workers finish the files that they write, for a while; after that none is left."""
        try:
            for worker in self.workers:
                worker.process.terminate()
            deadline = time.monotonic() + FILES_IN_FLIGHT_S
            for worker in self.workers:
                _join(worker.process, deadline)
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()


def _join(process: Any, deadline: float) -> None:
    process.join(max(0.0, deadline - time.monotonic()))
    if process.exitcode is None:
        process.kill()
        process.join()


def _given_up(given: _Given, cause: str) -> Iterator[Outcome]:
    for sample in given.batch.samples:
        if sample.id in given.untold:
            reason = f"worker process ended unexpectedly ({cause}) twice with this image"
            yield Outcome(sample.id, "failed", f"{sample.image}: {reason}")


def _cause(worker: _Worker) -> str:
    """Why a process ended, in a few words."""
    code = worker.process.exitcode
    if worker.said:
        return worker.said
    if code is not None and code < 0:
        return f"signal {-code}{'; out of memory?' if -code == signal.SIGKILL else ''}"
    return f"exit code {code}"


@contextmanager
def _ctrl_c_is_ours() -> Iterator[None]:
    """Ctrl-C in a terminal reaches the whole group; processes started in here never get it, the parent a little later.

    What is blocked stays blocked in a new program, from its first instruction on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- a worker -------------------------------------------------------------------------------------


def _serve(set_up: SetUp, number: int, threads: int, pipe: "Connection[Any, Any]") -> None:
    """A worker's life, from its first instruction to its last."""
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    desk = _Desk(pipe)
    try:
        _work(set_up, number, threads, desk)
    except (KeyboardInterrupt, _ParentGone):  # what was in flight is finished
        sys.exit(EXIT_TERMINATED)
    except Exception as error:
        with suppress(_ParentGone):
            desk.tell(_as_message(error))
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _work(set_up: SetUp, number: int, threads: int, desk: "_Desk") -> None:
    """Get the task, set up, and work in rounds until sent home; what was begun is finished at the end of each."""
    import torch

    task = desk.ask()
    torch.set_num_threads(threads)
    work = set_up(number, task)
    while not desk.closed:
        for outcome in work(desk.batches()):
            desk.tell(outcome)


def _as_message(error: Exception) -> _Error:
    from pipeline.stages.out_of_memory import DeviceLost

    if isinstance(error, UserError):
        return _Error("user", str(error))
    if isinstance(error, StopRun):  # a lost GPU is one for this process only
        return _Error("crash" if isinstance(error, DeviceLost) else "stop", str(error))
    return _Error("crash", " ".join(f"{type(error).__name__}: {error}".split())[:200])


class _ParentGone(BaseException):
    """Nobody is left to work for. Not an Exception, so that nobody takes it for the failure of an image."""


class _Desk:
    """The worker's end of the pipe."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe, self.closed = pipe, False

    def ask(self) -> Any:
        self.tell(_ASK)
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            raise _ParentGone from None

    def tell(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            raise _ParentGone from None

    def batches(self) -> Iterator[Batch]:
        """The batches of one round, asked for as they are drawn."""
        while isinstance(batch := self.ask(), Batch):
            yield batch
        self.closed = batch == _END


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Whatever this process does: it does not live on for ever without its parent, which may be killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    time.sleep(FILES_IN_FLIGHT_S)
    os._exit(1)
