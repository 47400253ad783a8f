"""Batches shared among processes: dying, slow and refusing workers; every image is told once.

The workers are forked here, which is quick; tests/test_road.py starts them anew, as the command does.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from common.errors import StopRun, UserError
from common.outcome import Outcome
from common.parallel import ordered_map
from dataset.spec import Sample
from engine import processes
from engine.processes import Work, run_processes
from pipeline.stages.batches import Batch
from pipeline.stages.out_of_memory import DeviceLost
from tests.support import ROOT

PATIENCE_S = 300  # a test that would wait for ever fails after that


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@dataclass(frozen=True)
class Script:
    """What befalls the workers.

    notes   a folder where each try at a batch leaves a file `<first id>.<pid>`
    always  ids of images that end the process each time, once those that do so the first time
    how     ends a process
    ahead   batches that a worker works on side by side
    """

    notes: Path
    always: frozenset[str] = frozenset()
    once: frozenset[str] = frozenset()
    how: Callable[[], None] | None = None
    ahead: int = 2


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashed() -> None:
    raise ArithmeticError("two\nlines")


def lost_its_gpu() -> None:
    raise DeviceLost("CUDA error")


def made(script: Script, batch: Batch) -> list[Outcome]:
    note = script.notes / f"{batch.samples[0].id}.{os.getpid()}"
    first = not list(script.notes.glob(f"{batch.samples[0].id}.*"))
    note.touch()
    if any(sample.id in script.always or (first and sample.id in script.once) for sample in batch.samples):
        assert script.how is not None
        script.how()
    return [Outcome(sample.id, "made") for sample in batch.samples]


def worker(number: int, script: Script) -> Work:
    return partial(work, script)


def work(script: Script, batches: Iterable[Batch]) -> Iterator[Outcome]:
    for outcomes in ordered_map(partial(made, script), batches, script.ahead):
        yield from outcomes


def batch_of(*ids: str) -> Batch:
    return Batch([Sample(image_id, Path(f"{image_id}.jpg"), (0,)) for image_id in ids])


def singles(count: int) -> list[Batch]:
    return [batch_of(f"i{index:02}") for index in range(count)]


def statuses(found: Iterable[Outcome], ids: Iterable[str]) -> dict[str, str]:
    """By id; every one must have been told once."""
    told = list(found)
    assert sorted(outcome.id for outcome in told) == sorted(ids)
    return {outcome.id: outcome.status for outcome in told}


def ids_of(batches: Iterable[Batch]) -> list[str]:
    return [sample.id for batch in batches for sample in batch.samples]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie, as one is whose parent in this container never asks for it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


# --- who does what --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_every_image_is_told_once_and_batches_without_work_go_to_nobody(count: int, tmp_path: Path) -> None:
    kept = [Batch([], outcomes=[Outcome(f"k{index}", "kept"), Outcome(f"f{index}", "failed", "")]) for index in "123"]
    work = [*singles(7), batch_of("x", "y", "z"), batch_of("u")]
    batches = [kept[0], *work, *kept[1:]]
    ids = [*ids_of(work), *(outcome.id for batch in kept for outcome in batch.outcomes)]
    found = statuses(run_processes(worker, Script(tmp_path), iter(batches), count), ids)
    assert {found[key] for key in ids_of(work)} == {"made"} and len(list(tmp_path.iterdir())) == len(work)


def test_a_list_without_work_needs_no_process() -> None:
    kept = Batch([], outcomes=[Outcome("k", "kept")])
    assert list(run_processes(dead_at_once, None, [kept], 2)) == kept.outcomes


def one_by_one(number: int, gate: Path) -> Work:
    return partial(work_one_by_one, gate)


def work_one_by_one(gate: Path, batches: Iterable[Batch]) -> Iterator[Outcome]:
    for batch in batches:
        if batch.samples[0].id == "i00":
            wait_until(gate.exists)
        yield from (Outcome(sample.id, "made") for sample in batch.samples)


def test_a_slow_image_holds_no_other(tmp_path: Path) -> None:
    """The first is done only when all others are told."""
    gate, told = tmp_path / "gate", []
    for outcome in run_processes(one_by_one, gate, iter(singles(30)), 2):
        told.append(outcome.id)
        if len(told) == 29:
            gate.touch()
    assert told[-1] == "i00" and sorted(told) == ids_of(singles(30))


def told_apart(number: int, folder: Path) -> Work:
    (folder / str(number)).touch()
    return partial(tell_number_and_threads, number, folder)


def tell_number_and_threads(number: int, folder: Path, batches: Iterable[Batch]) -> Iterator[Outcome]:
    for batch in batches:
        wait_until(lambda: len(list(folder.iterdir())) == 2)
        yield Outcome(batch.samples[0].id, "made", note=f"{number}: {torch.get_num_threads()} threads")


def test_workers_have_numbers_and_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its number a worker finds its GPU."""
    monkeypatch.setattr(processes, "available_cores", lambda: 6)
    found = run_processes(told_apart, tmp_path, iter(singles(20)), 2)
    assert {outcome.note for outcome in found} == {"0: 3 threads", "1: 3 threads"}


def test_batches_are_drawn_as_there_is_room(tmp_path: Path) -> None:
    """Each worker has `ahead` of ordered_map's 2 x 2 batches, and one that it asked for; the parent one at hand."""
    drawn = []

    def plan() -> Iterator[Batch]:
        for index, batch in enumerate(singles(60)):
            drawn.append(index)
            yield batch

    for told, _ in enumerate(run_processes(worker, Script(tmp_path), plan(), 2)):
        assert len(drawn) - told <= 2 * (2 * 2 + 1) + 1 + 60 * (told > 40)


# --- ends that nobody asked for -------------------------------------------------------------------


@pytest.mark.parametrize("how", [killed, crashed, lost_its_gpu, partial(os._exit, 7)])
def test_what_a_dead_worker_had_goes_out_again(how: Callable[[], None], tmp_path: Path) -> None:
    batches = singles(16)
    script = Script(tmp_path, once=frozenset({"i03", "i11"}), how=how)
    assert set(statuses(run_processes(worker, script, iter(batches), 2), ids_of(batches)).values()) == {"made"}
    assert len(list(tmp_path.glob("i03.*"))) == 2


@pytest.mark.parametrize(
    ("how", "cause"), [(killed, "signal 9; out of memory?"), (crashed, "ArithmeticError: two lines")]
)
@pytest.mark.parametrize("count", [1, 2])
def test_images_on_which_workers_always_die_fail_and_cost_no_other(
    count: int, how: Callable[[], None], cause: str, tmp_path: Path
) -> None:
    batches = [*singles(5), batch_of("x", "bad", "z"), batch_of("w"), batch_of("worse"), batch_of("u")]
    script = Script(tmp_path, always=frozenset({"bad", "worse"}), how=how)
    found = list(run_processes(worker, script, iter(batches), count))
    assert statuses(found, ids_of(batches)) == {
        **dict.fromkeys(ids_of(batches), "made"),
        **dict.fromkeys(("x", "bad", "z", "worse"), "failed"),
    }
    (reason,) = {outcome.reason for outcome in found if outcome.id == "bad"}
    assert reason == f"bad.jpg: worker process ended unexpectedly ({cause}) twice with this image"
    assert 2 <= len(list(tmp_path.glob("x.*"))) <= 3  # perhaps among others first, then twice alone


def half_told(number: int, notes: Path) -> Work:
    return partial(tell_half, notes)


def tell_half(notes: Path, batches: Iterable[Batch]) -> Iterator[Outcome]:
    for batch in batches:
        first, *rest = batch.samples
        yield Outcome(first.id, "made")
        if not (notes / first.id).exists():
            (notes / first.id).touch()
            killed()
        yield from (Outcome(sample.id, "made") for sample in rest)


def test_an_image_that_was_told_before_the_end_is_not_told_again(tmp_path: Path) -> None:
    batches = [batch_of("a", "b"), batch_of("c", "d", "e")]
    assert set(statuses(run_processes(half_told, tmp_path, iter(batches), 1), "abcde").values()) == {"made"}


def dead_at_once(number: int, task: object) -> Work:
    os._exit(5)


def not_set_up(number: int, task: object) -> Work:
    raise ArithmeticError("no device")


@pytest.mark.parametrize(
    ("set_up", "cause"), [(dead_at_once, "exit code 5"), (not_set_up, "ArithmeticError: no device")]
)
def test_workers_that_never_get_anywhere_end_the_run(set_up: processes.SetUp, cause: str) -> None:
    with pytest.raises(StopRun, match=f"again and again.*{cause}.*same command") as caught:
        list(run_processes(set_up, None, iter(singles(3)), 2))
    assert "\n" not in str(caught.value)


def refused(number: int, error: Exception) -> Work:
    raise error


def refused_later(number: int, error: Exception) -> Work:
    return partial(refuse, error)


def refuse(error: Exception, batches: Iterable[Batch]) -> Iterator[Outcome]:
    for batch in batches:
        yield Outcome(batch.samples[0].id, "made")
        raise error


@pytest.mark.parametrize("error", [UserError("no such weights"), StopRun("disk full")])
@pytest.mark.parametrize("set_up", [refused, refused_later])
def test_a_workers_refusal_is_the_commands(set_up: processes.SetUp, error: Exception) -> None:
    with pytest.raises(type(error), match=f"^{error}$"):
        list(run_processes(set_up, error, iter(singles(9)), 2))
    assert not multiprocessing.active_children()


# --- ends that somebody asked for -----------------------------------------------------------------


def slow_writer(number: int, folder: Path) -> Work:
    return partial(write_slowly, folder)


def write_slowly(folder: Path, batches: Iterable[Batch]) -> Iterator[Outcome]:
    def write(batch: Batch) -> Batch:
        (folder / f"{batch.samples[0].id}.begun").touch()
        time.sleep(0.3)
        (folder / f"{batch.samples[0].id}.written").touch()
        return batch

    for batch in ordered_map(write, batches, 1):
        yield Outcome(batch.samples[0].id, "made")


def test_files_in_flight_are_finished_and_no_worker_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FILES_IN_FLIGHT_S", PATIENCE_S)  # a busy machine may need longer than usual
    outcomes = run_processes(slow_writer, tmp_path, iter(singles(50)), 2)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    begun, written = ({path.stem for path in tmp_path.glob(f"*.{what}")} for what in ("begun", "written"))
    assert begun == written and 0 < len(begun) < 50
    assert not multiprocessing.active_children()


def stubborn(number: int, folder: Path) -> Work:
    return partial(ignore_all, folder)


def ignore_all(folder: Path, batches: Iterable[Batch]) -> Iterator[Outcome]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield Outcome(next(iter(batches)).samples[0].id, "made")
    time.sleep(PATIENCE_S)


def test_a_worker_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FILES_IN_FLIGHT_S", 0.2)
    outcomes = run_processes(stubborn, tmp_path, iter(singles(50)), 2)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


ORPHANS = """
import os, sys, time
from functools import partial
from pathlib import Path

sys.path.insert(0, {root!r})
from dataset.spec import Sample
from engine import processes
from pipeline.stages.batches import Batch

def tell_pid(number, folder):
    (folder / str(os.getpid())).touch()
    return partial(wait_for_ever, folder)

def wait_for_ever(folder, batches):
    for batch in batches:
        time.sleep(3600)
        yield

if __name__ == "__main__":
    batches = [Batch([Sample(str(index), Path("x.jpg"), (0,))]) for index in range(9)]
    list(processes.run_processes(tell_pid, Path({folder!r}), batches, 2))
"""


@pytest.mark.slow
def test_workers_do_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Started anew, not forked, and asleep in the middle of an image when it happens."""
    notes, script = tmp_path / "notes", tmp_path / "orphans.py"
    notes.mkdir()
    script.write_text(ORPHANS.format(root=str(ROOT), folder=str(notes)))
    parent = subprocess.Popen([sys.executable, str(script)], cwd=ROOT)
    try:
        wait_until(lambda: len(list(notes.iterdir())) == 2)
        workers = [int(path.name) for path in notes.iterdir()]
        assert all(map(lives, workers))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(map(lives, workers)))
