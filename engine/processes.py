"""Worker processes of one machine that take batches from one list; what a dead one held goes out again.

The parent cuts the list and holds it; a worker asks for the next batch when it has room, so that a slow image holds
nobody else, and the bytes do not depend on who does what. Each worker has a pipe of its own: no lock can be left
behind by one that is killed.

A worker sends outcomes, ASK, and at last an error: UserError or StopRun, which end the run, or the words of another
one, which ends that worker only. The parent answers each ASK: first with the task, then with batches or PAUSE.
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
ASK = None  # a batch, please
PAUSE = None  # there is none now: finish what you have, then ask again

Work = Callable[[Iterable[Batch]], Iterator[Outcome]]  # all outcomes of one batch before those of the next
SetUp = Callable[[int, Any], Work]  # of a worker's number and the task; a function that other processes can import


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

    due     outcomes that its worker has still to send
    unsent  ids of which the caller has no outcome yet; a batch may go out twice
    deaths  of workers that had nothing else
    """

    batch: Batch
    unsent: set[str]
    due: int = 0
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """A process as the parent knows it.

    given     what it works on, in order
    alone     whether the one batch it has is suspected of having ended another worker
    has_task  whether it got the task
    asks      whether it waits for an answer
    error     the words of the error that ended it
    """

    number: int
    process: Any
    pipe: "Connection[Any, Any]"
    given: deque[_Given] = field(default_factory=deque)
    alone: bool = False
    has_task: bool = False
    asks: bool = False
    error: str = ""

    def answer(self, message: Any) -> None:
        self.asks = False
        with suppress(OSError):  # it has ended, which its closed pipe will show
            self.pipe.send(message)

    def give(self, given: _Given, alone: bool) -> None:
        given.due = len(given.batch.samples)
        self.given.append(given)
        self.alone = alone
        self.answer(given.batch)

    def join(self, deadline: float) -> None:
        """Wait for the end of the process, and end it at the deadline."""
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()

    def cause(self) -> str:
        """Why the process ended, in a few words."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"signal {-code}{'; out of memory?' if -code == signal.SIGKILL else ''}"
        return self.error or f"exit code {code}"


class _Team:
    """The workers, and what is still to be given out.

    drawn     the next batch of the plan
    suspects  batches that dead workers had
    deaths    in a row
    """

    def __init__(self, set_up: SetUp, task: Any, batches: Iterable[Batch], count: int) -> None:
        self.set_up, self.task, self.count = set_up, task, count
        self.plan = iter(batches)
        self.drawn: _Given | None = None
        self.suspects: deque[_Given] = deque()
        self.workers: list[_Worker] = []
        self.deaths = 0

    def outcomes(self) -> Iterator[Outcome]:
        yield from self._draw()
        for number in range(self.count if self.drawn else 0):
            self._start(number)
        while self.drawn or self.suspects or any(worker.given for worker in self.workers):
            by_pipe: dict[Any, _Worker] = {worker.pipe: worker for worker in self.workers}
            for pipe in wait(list(by_pipe)):
                yield from self._listen(by_pipe[pipe])
            for worker in self.workers:
                if worker.asks:
                    yield from self._answer(worker)

    def _draw(self) -> Iterator[Outcome]:
        """Have the next batch with work at hand, if there is one; the outcomes of those that need none."""
        for batch in self.plan:
            yield from batch.outcomes
            if batch.samples:
                self.drawn = _Given(replace(batch, outcomes=[]), {sample.id for sample in batch.samples})
                return

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(1, available_cores() // self.count)
        process = context.Process(target=_serve, args=(self.set_up, number, threads, theirs))
        try:
            with _without_ctrl_c():
                process.start()
        except OSError as error:
            raise StopRun(f"a worker process cannot be started ({error.strerror or error})") from error
        finally:
            theirs.close()
        self.workers.append(_Worker(number, process, ours))

    def _listen(self, worker: _Worker) -> Iterator[Outcome]:
        """Take one message; a closed pipe says that its worker has ended."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._ended(worker)
            return
        if isinstance(message, (UserError, StopRun)):
            raise message
        if isinstance(message, str):
            worker.error = message
        elif message is ASK:
            worker.asks = True
        else:
            given = worker.given[0]
            given.due -= 1
            if not given.due:
                worker.given.popleft()
                self.deaths = 0
            if message.id in given.unsent:
                given.unsent.discard(message.id)
                yield message

    def _answer(self, worker: _Worker) -> Iterator[Outcome]:
        """Give what the worker asks for; one that has nothing may wait for what another has."""
        if not worker.has_task:
            worker.has_task = True
            worker.answer(self.task)
        elif self.suspects and not worker.given:
            worker.give(self.suspects.popleft(), alone=True)
        elif self.drawn and not (worker.alone and worker.given):
            drawn, self.drawn = self.drawn, None
            worker.give(drawn, alone=False)
            yield from self._draw()
        elif worker.given:
            worker.answer(PAUSE)

    def _ended(self, worker: _Worker) -> Iterator[Outcome]:
        """What a dead worker had becomes suspected, or is given up."""
        self.workers.remove(worker)
        worker.pipe.close()
        worker.join(time.monotonic() + FILES_IN_FLIGHT_S)
        self.deaths += 1
        if len(worker.given) == 1:
            worker.given[0].deaths += 1
        for given in worker.given:
            if given.deaths < DEATHS_ALONE:
                self.suspects.append(given)
                continue
            self.deaths = 0
            reason = f"worker process ended unexpectedly ({worker.cause()}) twice with this image"
            for sample in given.batch.samples:
                if sample.id in given.unsent:
                    yield Outcome(sample.id, "failed", f"{sample.image}: {reason}")
        if self.deaths > DEATHS_IN_A_ROW * self.count:
            said = f"worker processes end again and again, the last one with {worker.cause()}"
            raise StopRun(f"{said}; the same command goes on from here")
        if self.suspects or self.drawn:
            self._start(worker.number)

    def end(self) -> None:
        """Let the workers finish the files that they write, for a while; after that none is left."""
        try:
            for worker in self.workers:
                worker.process.terminate()
            deadline = time.monotonic() + FILES_IN_FLIGHT_S
            for worker in self.workers:
                worker.join(deadline)
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
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
    """A worker's life: get the task, set up, and work in rounds; what was begun is finished at the end of each."""
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch

        task = _ask(pipe)
        torch.set_num_threads(threads)
        work = set_up(number, task)
        while True:
            for outcome in work(iter(lambda: _ask(pipe), PAUSE)):
                _send(pipe, outcome)
    except KeyboardInterrupt:  # what was in flight is finished
        sys.exit(EXIT_TERMINATED)
    except Exception as error:
        with suppress(KeyboardInterrupt):
            _send(pipe, _last_words(error))
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _ask(pipe: "Connection[Any, Any]") -> Any:
    """The parent's answer. A parent that is gone ends the worker as Ctrl-C would."""
    _send(pipe, ASK)
    try:
        return pipe.recv()
    except (EOFError, OSError):
        raise KeyboardInterrupt from None


def _send(pipe: "Connection[Any, Any]", message: Any) -> None:
    try:
        pipe.send(message)
    except OSError:
        raise KeyboardInterrupt from None


def _last_words(error: Exception) -> UserError | StopRun | str:
    from pipeline.stages.out_of_memory import DeviceLost

    if isinstance(error, UserError):
        return UserError(str(error))
    if isinstance(error, StopRun):  # a lost GPU is one for this process only
        return str(error) if isinstance(error, DeviceLost) else StopRun(str(error))
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


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
