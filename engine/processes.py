"""Worker processes of one machine that take batches from one list; batches of a dead worker are given out again.

The parent holds the list; a worker asks for the next batch when it has capacity, so that a slow image delays no other
worker, and the results do not depend on the division of the work. Each worker has a pipe of its own: a killed worker
leaves no lock behind.

A worker sends outcomes, ASK, and at last an error: UserError or StopRun, which end the run, or the text of another
error, which ends that worker only. The parent answers each ASK: first with the task, then with batches or PAUSE.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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
PAUSE = None  # no batch now: finish those you have, then ask again

Work = Callable[[Iterable[Batch]], Iterator[Outcome]]  # all outcomes of one batch before those of the next
SetUp = Callable[[int, Any], Work]  # of a worker's number and the task; a function that other processes can import


def run_processes(set_up: SetUp, task: Any, batches: Iterable[Batch], count: int) -> Iterator[Outcome]:
    """Share the batches among `count` processes, each with `set_up(number, task)`; one outcome an image, as they come.

    The unfinished batches of a worker that dies are suspects, as any of them may have caused it. Each suspect is given
    to a worker that has no other batch; the images of a batch with which workers die twice fail. Dead workers are
    replaced. Raises UserError for one in a worker's set-up, StopRun for one of a worker or when workers die all the
    time.
    """
    team = _Team(set_up, task, batches, count)
    try:
        yield from team.outcomes()
    finally:
        team.end()


@dataclass(eq=False)
class _Assignment:
    """A batch that a worker has, or had.

    due     number of outcomes that its worker has still to send
    unsent  ids without an outcome for the caller; a batch may be given out twice
    deaths  number of workers that died with this batch alone
    """

    batch: Batch
    unsent: set[str]
    due: int = 0
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """The parent's view of a process.

    assignments  its batches, in order
    on_suspect   its one batch is a suspect
    has_task     it got the task
    asks         it waits for an answer
    error        the text of the error that ended it
    """

    number: int
    process: Any
    pipe: "Connection[Any, Any]"
    assignments: deque[_Assignment] = field(default_factory=deque)
    on_suspect: bool = False
    has_task: bool = False
    asks: bool = False
    error: str = ""

    def answer(self, message: Any) -> None:
        self.asks = False
        with suppress(OSError):  # the process has ended, as its closed pipe will show
            self.pipe.send(message)

    def give(self, assignment: _Assignment, suspect: bool) -> None:
        assignment.due = len(assignment.batch.samples)
        self.assignments.append(assignment)
        self.on_suspect = suspect
        self.answer(assignment.batch)

    def join(self, deadline: float) -> None:
        """Wait for the end of the process until the deadline, then kill it."""
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()

    def cause(self) -> str:
        """Why the process ended, for people."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"signal {-code}{'; out of memory?' if -code == signal.SIGKILL else ''}"
        return self.error or f"exit code {code}"


class _Team:
    """The workers, and the batches that are still to be given out.

    next_batch  the next batch of the plan
    suspects    batches of dead workers
    deaths      number of deaths without a finished batch between them
    """

    def __init__(self, set_up: SetUp, task: Any, batches: Iterable[Batch], count: int) -> None:
        self.set_up, self.task, self.count = set_up, task, count
        self.plan = iter(batches)
        self.next_batch: _Assignment | None = None
        self.suspects: deque[_Assignment] = deque()
        self.workers: list[_Worker] = []
        self.deaths = 0

    def outcomes(self) -> Iterator[Outcome]:
        yield from self._draw()
        for number in range(self.count if self.next_batch else 0):
            self._start(number)
        while self.next_batch or self.suspects or any(worker.assignments for worker in self.workers):
            by_pipe: dict[Any, _Worker] = {worker.pipe: worker for worker in self.workers}
            for pipe in wait(list(by_pipe)):
                yield from self._listen(by_pipe[pipe])
            for worker in self.workers:
                if worker.asks:
                    yield from self._answer(worker)

    def _draw(self) -> Iterator[Outcome]:
        """Draw the next batch with work; yields the outcomes of batches without work."""
        for batch in self.plan:
            yield from batch.outcomes
            if batch.samples:
                ids = {sample.id for sample in batch.samples}
                self.next_batch = _Assignment(replace(batch, outcomes=[]), ids)
                return

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        parent_end, worker_end = context.Pipe()
        threads = max(1, available_cores() // self.count)
        process = context.Process(target=_serve, args=(self.set_up, number, threads, worker_end))
        # Ctrl-C in a terminal reaches the whole group. Workers inherit the blocked signal and never get it; the parent
        # gets it a little later.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        except OSError as error:
            raise StopRun(f"a worker process cannot be started ({error.strerror or error})") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            worker_end.close()
        self.workers.append(_Worker(number, process, parent_end))

    def _listen(self, worker: _Worker) -> Iterator[Outcome]:
        """Take one message; a closed pipe means that the worker has ended."""
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
            assignment = worker.assignments[0]
            assignment.due -= 1
            if not assignment.due:
                worker.assignments.popleft()
                self.deaths = 0
            if message.id in assignment.unsent:
                assignment.unsent.discard(message.id)
                yield message

    def _answer(self, worker: _Worker) -> Iterator[Outcome]:
        """Answer the worker; one without a batch may have to wait for those of another."""
        if not worker.has_task:
            worker.has_task = True
            worker.answer(self.task)
        elif self.suspects and not worker.assignments:
            worker.give(self.suspects.popleft(), suspect=True)
        elif self.next_batch and not (worker.on_suspect and worker.assignments):
            assignment, self.next_batch = self.next_batch, None
            worker.give(assignment, suspect=False)
            yield from self._draw()
        elif worker.assignments:
            worker.answer(PAUSE)

    def _ended(self, worker: _Worker) -> Iterator[Outcome]:
        """Make the batches of a dead worker suspects, or their images failures."""
        self.workers.remove(worker)
        worker.pipe.close()
        worker.join(time.monotonic() + FILES_IN_FLIGHT_S)
        self.deaths += 1
        if len(worker.assignments) == 1:
            worker.assignments[0].deaths += 1
        for assignment in worker.assignments:
            if assignment.deaths < DEATHS_ALONE:
                self.suspects.append(assignment)
                continue
            self.deaths = 0
            reason = f"worker process ended unexpectedly ({worker.cause()}) twice with this image"
            for sample in assignment.batch.samples:
                if sample.id in assignment.unsent:
                    yield Outcome(sample.id, "failed", f"{sample.image}: {reason}")
        if self.deaths > DEATHS_IN_A_ROW * self.count:
            message = f"worker processes end again and again, the last one with {worker.cause()}"
            raise StopRun(f"{message}; the same command goes on from here")
        if self.suspects or self.next_batch:
            self._start(worker.number)

    def end(self) -> None:
        """Give the workers FILES_IN_FLIGHT_S to finish the files that they write, then kill them."""
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


def _serve(set_up: SetUp, number: int, threads: int, pipe: "Connection[Any, Any]") -> None:
    """Run a worker: get the task, set up, and work in rounds; each round finishes the batches that it began."""
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
    except KeyboardInterrupt:  # files in flight are finished
        sys.exit(EXIT_TERMINATED)
    except Exception as error:
        with suppress(KeyboardInterrupt):
            _send(pipe, _message_of(error))
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _ask(pipe: "Connection[Any, Any]") -> Any:
    """The parent's answer. Without a parent the worker ends as by Ctrl-C."""
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


def _message_of(error: Exception) -> UserError | StopRun | str:
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
    """End this process when its parent ends, which may be killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    time.sleep(FILES_IN_FLIGHT_S)
    os._exit(1)
