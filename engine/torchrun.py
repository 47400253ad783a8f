"""One command in several processes that torchrun started, on one machine or many.

torchrun --nproc_per_node=4 generate_cams.py --dataset voc12 ...

The first rank reads the list, cuts it into batches and puts them into the store that torchrun's rendezvous gives;
every rank, the first too, claims the next one when it has room. What became of the images comes back through the
store, so that one rank alone speaks and writes records.

torchrun may start all processes again, on the same store, and with another TORCHELASTIC_RESTART_COUNT on each machine:
only that whose process had died counts. The first rank therefore numbers the rounds, and tells the others in which they
are; what earlier rounds left in the store lies under other names. All of one round have ended before the next begins.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, StopRun, UserError
from common.outcome import Outcome

if TYPE_CHECKING:
    from torch.distributed import Store

    from pipeline.stages.batches import Batch

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
POLL_S = 0.1  # between two looks into the store for what is not there yet
TELL_S = 0.5  # outcomes are told together, at least that far apart
JOIN_S = 600  # at its end, the first rank waits that long for ranks that have not begun yet
PARTING_S = 5  # and that long for the others to read its exit code

Work = Callable[["Iterable[Batch]"], Iterator[Outcome]]


def from_environment() -> "Ranks | None":
    """This process's place among those that torchrun started; None without torchrun's variables, or alone."""
    found = {name: os.environ.get(name, "") for name in VARIABLES}
    if not all(found.values()) or not all(found[name].isdigit() for name in VARIABLES[:3]):
        return None
    rank, world, local = (int(found[name]) for name in VARIABLES[:3])
    shared = os.environ.get("LOCAL_WORLD_SIZE", "")
    return Ranks(rank, world, local, int(shared) if shared.isdigit() else world) if world > 1 else None


def rendezvous() -> "Store":
    """The store of this group of processes, by torchrun's variables. Raises UserError when it cannot be reached."""
    from torch import distributed

    try:
        store = next(distributed.rendezvous("env://"))[0]
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        said = " ".join(str(error).split())[:160]
        raise UserError(
            f"MASTER_ADDR and MASTER_PORT: no rendezvous at {where} ({said}); start with torchrun"
        ) from error
    return distributed.PrefixStore(f"clip-pseudo-masks/{os.environ.get('TORCHELASTIC_RUN_ID', '')}", store)


@dataclass(frozen=True)
class Ranks:
    """The group, seen from one of its processes.

    rank, world              of all processes, on all machines
    local_rank, local_world  of those on this machine; each has the device of its local number
    connect                  gives the store that they share
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    connect: "Callable[[], Store]" = rendezvous
    _round: "list[_Shared]" = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this rank leads: it alone reads the list, prints, and writes records."""
        return self.rank == 0

    @property
    def store(self) -> "_Shared":
        """What the processes of this round share; the first rank begins one, the others wait until it has."""
        if not self._round:  # no cached_property: before Python 3.12, waiting in one holds up all others of its kind
            everyone = _Shared(self.connect())
            number = _begin_round(everyone, self.world - 1) if self.first else _join_round(everyone)
            self._round.append(everyone.part(f"{number}/"))
        return self._round[0]

    # --- the first rank ---

    def lead(self, batches: "Iterable[Batch]", work: Work, start: Any, total: int) -> Iterator[Outcome]:
        """Give out the batches and work on them too; the outcomes of all ranks, `total` of them, as they come.

        start  what the others need to know before they begin; of JSON
        """
        told: deque[Outcome] = deque()  # of what needs no work
        giver = _Giver(self.store, batches, told)
        self.store.put("start", start)
        giver.start()
        try:
            yield from _first(total, self._all(work, told, giver))
        finally:
            giver.stop()

    def _all(self, work: Work, told: deque[Outcome], giver: "_Giver") -> Iterator[Outcome]:
        """For ever."""
        mailboxes = [_Mailbox(self.store, rank) for rank in range(1, self.world)]
        for outcome in work(self._claimed()):
            yield outcome
            yield from _taken(told, mailboxes)
        while True:
            giver.check()
            yield from _taken(told, mailboxes)
            time.sleep(POLL_S)

    def finish(self, code: int) -> None:
        """Let the others end with the same exit code. A store that is gone has nobody to tell."""
        with suppress(UserError, StopRun, KeyboardInterrupt):
            self.store.put("code", code)
            stopped = code in (EXIT_INTERRUPTED, EXIT_TERMINATED)  # then nobody is waited for who may never come
            self._wait_for_others("present", PARTING_S if stopped else JOIN_S)
            self._wait_for_others("gone", PARTING_S)

    def _wait_for_others(self, key: str, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while self.store.count(key, 0) < self.world - 1 and time.monotonic() < deadline:
            time.sleep(POLL_S)

    # --- the others ---

    def follow(self, set_up: Callable[[Any], Work]) -> int:
        """Work on what the first rank gives out until it says the exit code, which is returned.

        set_up  gets what `lead` was given as `start`
        """
        self.store.wait_for("start", "code")
        if self.store.has("start"):
            self._work(set_up(self.store.get("start")))
        self.store.wait_for("code")
        code = int(self.store.get("code"))
        self.store.count("gone", 1)
        return code

    def _work(self, work: Work) -> None:
        mailbox, told, last = _Mailbox(self.store, self.rank), list[Outcome](), time.monotonic()
        for outcome in work(self._claimed()):
            told.append(outcome)
            if time.monotonic() - last > TELL_S:
                mailbox.put(told)
                told, last = [], time.monotonic()
        mailbox.put(told)

    # --- all ---

    def _claimed(self) -> "Iterator[Batch]":
        """The next batch that nobody has, one after another; none once the first rank has ended."""
        while not self.store.has("code"):
            number = self.store.count("claimed", 1) - 1
            while not self.store.has(f"batch/{number}"):
                if self.store.has("code") or (self.store.has("given") and number >= self.store.get("given")):
                    return
                time.sleep(POLL_S)
            yield _unpacked(self.store.pop(f"batch/{number}"))


def _begin_round(everyone: "_Shared", others: int) -> int:
    """A new round's number, which a thread tells all who join until so many others are there."""
    number = everyone.count("rounds", 1)
    threading.Thread(target=_greet, args=(everyone, number, others), name="greeter", daemon=True).start()
    return number


def _greet(everyone: "_Shared", number: int, others: int) -> None:
    """Those of earlier rounds who ended before they were told are answered too, which nobody reads."""
    with suppress(StopRun):  # the rank itself will see that the store is gone
        answered = everyone.count("answered", 0)
        while everyone.count("rounds", 0) == number and everyone.count(f"{number}/present", 0) < others:
            for place in range(answered + 1, everyone.count("joined", 0) + 1):
                everyone.put(f"answer/{place}", number)
                answered = everyone.count("answered", 1)
            time.sleep(POLL_S)


def _join_round(everyone: "_Shared") -> int:
    """The number of the round in which this process takes part, whenever its first rank comes to tell."""
    place = everyone.count("joined", 1)
    everyone.wait_for(f"answer/{place}")
    number = int(everyone.get(f"answer/{place}"))
    everyone.count(f"{number}/present", 1)
    return number


def _first(count: int, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    left = count
    if left:
        for outcome in outcomes:
            yield outcome
            left -= 1
            if not left:
                return


def _taken(told: deque[Outcome], mailboxes: "list[_Mailbox]") -> Iterator[Outcome]:
    while told:
        yield told.popleft()
    for mailbox in mailboxes:
        yield from mailbox.take()


class _Giver:
    """A thread of the first rank that puts the batches into the store while the rank works.

    told  outcomes of what needs no work
    """

    def __init__(self, store: "_Shared", batches: "Iterable[Batch]", told: deque[Outcome]) -> None:
        self._store, self._batches, self._told = store, batches, told
        self._stopped, self._error = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.start = self._thread.start

    def _run(self) -> None:
        count = 0
        try:
            for batch in self._batches:
                if self._stopped.is_set():
                    return
                self._told.extend(batch.outcomes)
                if batch.samples:
                    self._store.put(f"batch/{count}", _packed(batch))
                    count += 1
        except BaseException as error:
            self._error.append(error)
        with suppress(StopRun):  # the rank itself will see that the store is gone
            self._store.put("given", count)  # after an error too: nobody waits for more

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error:
            raise self._error[0]

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


class _Mailbox:
    """What one rank tells the first: lists of outcomes, numbered."""

    def __init__(self, store: "_Shared", rank: int) -> None:
        self._store, self._rank, self._number = store, rank, 0

    @property
    def _key(self) -> str:
        return f"told/{self._rank}/{self._number}"

    def put(self, outcomes: list[Outcome]) -> None:
        if outcomes:
            self._store.put(self._key, [asdict(outcome) for outcome in outcomes])
            self._number += 1

    def take(self) -> Iterator[Outcome]:
        while self._store.has(self._key):
            found = self._store.pop(self._key)
            self._number += 1
            yield from (Outcome(**outcome) for outcome in found)


def _packed(batch: "Batch") -> list[Any]:
    return [[sample.id, str(sample.image), list(sample.labels)] for sample in batch.samples]


def _unpacked(samples: list[Any]) -> "Batch":
    from dataset.spec import Sample
    from pipeline.stages.batches import Batch

    return Batch([Sample(image_id, Path(image), tuple(labels)) for image_id, image, labels in samples])


class _Shared:
    """A store of JSON values. Raises StopRun when it is gone, with the process that held it."""

    def __init__(self, store: "Store", prefix: str = "") -> None:
        self._store, self._prefix = store, prefix

    def part(self, prefix: str) -> "_Shared":
        """The same store, with all keys under a prefix."""
        return _Shared(self._store, prefix)

    def put(self, key: str, value: Any) -> None:
        self._asked(lambda: self._store.set(self._prefix + key, json.dumps(value)))

    def get(self, key: str) -> Any:
        return json.loads(self._asked(lambda: self._store.get(self._prefix + key)))

    def pop(self, key: str) -> Any:
        value = self.get(key)
        self._asked(lambda: self._store.delete_key(self._prefix + key))
        return value

    def has(self, key: str) -> bool:
        return self._asked(lambda: self._store.check([self._prefix + key]))

    def count(self, key: str, more: int) -> int:
        """A number that all add to; what it is then."""
        return self._asked(lambda: self._store.add(self._prefix + key, more))

    def wait_for(self, *keys: str) -> None:
        """Until one of the keys is there, however long that takes."""
        while not any(self.has(key) for key in keys):
            time.sleep(POLL_S)

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except RuntimeError as error:  # torch's own errors of sockets and stores are such
            raise StopRun("the first process of the group is gone; the same command goes on from here") from error
