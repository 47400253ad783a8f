"""Ranks that share one list through a store: in threads with a store in memory, and as torchrun starts them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from common.errors import StopRun, UserError
from common.outcome import Outcome
from dataset.spec import Sample
from engine import torchrun
from engine.torchrun import Ranks, from_environment
from pipeline.stages.batches import Batch
from tests.support import ROOT, write_world

PATIENCE_S = 300
PLACE = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "h",
    "MASTER_PORT": "9",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrun, "POLL_S", 0.005)
    monkeypatch.setattr(torchrun, "TELL_S", 0.0)
    monkeypatch.setattr(torchrun, "JOIN_S", 0.1)
    monkeypatch.setattr(torchrun, "PARTING_S", 0.1)
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# --- the environment ------------------------------------------------------------------------------


def test_the_place_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment() is None
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    found = from_environment()
    assert found is not None and not found.first
    assert (found.rank, found.world, found.local_rank, found.local_world) == (3, 4, 1, 2)
    monkeypatch.setenv("RANK", "0")
    assert from_environment().first  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change", [{"WORLD_SIZE": "1"}, {"RANK": ""}, {"MASTER_ADDR": ""}, {"LOCAL_RANK": "first"}, {"RANK": "-1"}]
)
def test_without_a_group_nothing_changes(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    for name, value in {**PLACE, **change}.items():
        monkeypatch.setenv(name, value)
    assert from_environment() is None


@pytest.mark.parametrize("port", ["x", "99999999"])
def test_a_rendezvous_that_cannot_be_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    for name, value in {**PLACE, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"MASTER_PORT: no rendezvous at h:{port}") as caught:
        torchrun.rendezvous()
    assert "\n" not in str(caught.value)


# --- ranks in threads -----------------------------------------------------------------------------


def batch_of(*ids: str) -> Batch:
    return Batch([Sample(image_id, Path("photos") / f"{image_id}.jpg", (0, 4)) for image_id in ids])


def singles(count: int) -> list[Batch]:
    return [batch_of(f"i{index:02}") for index in range(count)]


def group(world: int, store: distributed.HashStore | None = None) -> list[Ranks]:
    store = store or distributed.HashStore()
    return [Ranks(rank, world, rank, world, lambda: distributed.PrefixStore("group", store)) for rank in range(world)]


class Worker:
    """Makes every image at once, and notes which; waits before image `slow` until told to go on."""

    def __init__(self, slow: str = "") -> None:
        self.samples: list[Sample] = []
        self.slow, self.go_on = slow, threading.Event()

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Outcome]:
        for batch in batches:
            for sample in batch.samples:
                if sample.id == self.slow:
                    assert self.go_on.wait(PATIENCE_S)
                self.samples.append(sample)
                yield Outcome(sample.id, "made", note="on the CPU")


def run_group(
    ranks: list[Ranks], workers: list[Worker], batches: list[Batch], code: int = 0
) -> tuple[list[Outcome], list[int]]:
    """The outcomes that the first rank tells, and the exit codes of the others."""
    total = sum(len(batch.samples) + len(batch.outcomes) for batch in batches)
    with ThreadPoolExecutor(len(ranks)) as pool:
        others = [pool.submit(rank.follow, lambda start, w=work: w) for rank, work in zip(ranks[1:], workers[1:])]
        told = list(ranks[0].lead(iter(batches), workers[0], {"finished": []}, total))
        ranks[0].finish(code)
        return told, [other.result(PATIENCE_S) for other in others]


@pytest.mark.parametrize("world", [2, 4])
def test_every_image_is_made_and_told_once(world: int) -> None:
    kept = Batch([], outcomes=[Outcome("k", "kept"), Outcome("f", "failed", "no image")])
    batches = [*singles(20), kept, batch_of("x", "y")]
    workers = [Worker() for _ in range(world)]
    told, codes = run_group(group(world), workers, batches, code=3)
    wanted = {sample.id: sample for batch in batches for sample in batch.samples}
    assert sorted(outcome.id for outcome in told) == sorted([*wanted, "k", "f"])
    assert {o for o in told if o.id not in "kf"} == {
        Outcome(image_id, "made", note="on the CPU") for image_id in wanted
    }
    assert Outcome("f", "failed", "no image") in told and codes == [3] * (world - 1)
    made = [sample for worker in workers for sample in worker.samples]
    assert sorted(made, key=lambda sample: sample.id) == [wanted[image_id] for image_id in sorted(wanted)]


def test_a_slow_image_holds_no_other() -> None:
    """The first image is with one of the two until the other has made all others."""
    workers = [Worker("i00"), Worker("i00")]

    def gate() -> None:
        wait_until(lambda: sum(len(worker.samples) for worker in workers) == 29)
        for worker in workers:
            worker.go_on.set()

    opener = threading.Thread(target=gate)
    opener.start()
    told, _ = run_group(group(2), workers, singles(30))
    opener.join()
    assert len(told) == 30 and sorted(len(worker.samples) for worker in workers) == [1, 29]


def test_what_the_others_need_to_know_reaches_them() -> None:
    first, second = group(2)
    heard = []

    def set_up(start: Any) -> Worker:
        heard.append(start)
        return Worker()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second.follow, set_up)
        list(first.lead(iter(singles(2)), Worker(), {"finished": ["a"], "made_by": {"scales": [1.0]}}, 2))
        first.finish(0)
        assert other.result(PATIENCE_S) == 0
    assert heard == [{"finished": ["a"], "made_by": {"scales": [1.0]}}]


def test_a_command_that_is_refused_ends_all_before_any_work() -> None:
    first, second = group(2)
    first.finish(2)
    assert second.follow(lambda start: pytest.fail("no work was given out")) == 2


def test_nobody_draws_more_once_the_first_rank_has_ended() -> None:
    first, second = group(2)
    outcomes = first.lead(iter(singles(50)), Worker(), {}, 50)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    first.finish(130)
    worker = Worker()
    assert second.follow(lambda start: worker) == 130 and not worker.samples


def test_an_error_of_the_plan_is_not_waited_for() -> None:
    def plan() -> Iterator[Batch]:
        yield batch_of("a")
        raise StopRun("no more")

    first, second = group(2)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second.follow, lambda start: Worker())
        with pytest.raises(StopRun, match="no more"):
            list(first.lead(plan(), Worker(), {}, 9))
        first.finish(3)
        assert other.result(PATIENCE_S) == 3


def test_a_store_that_is_gone_ends_the_rank() -> None:
    class Gone:
        def add(self, key: str, more: int) -> int:
            raise distributed.DistNetworkError("Connection reset by peer")

    with pytest.raises(StopRun, match="first process of the group is gone"):
        Ranks(1, 2, 1, 2, Gone).follow(lambda start: Worker())  # type: ignore[arg-type]


# --- started again, on the same store ---


@pytest.mark.parametrize("code", [0, 3, 143])
def test_a_round_after_one_that_ended_is_not_told_its_end(code: int) -> None:
    """The other rank is there before the first one, as after a restart; of the earlier round it hears nothing."""
    store, heard = distributed.HashStore(), list[Any]()
    run_group(group(2, store), [Worker(), Worker()], singles(9), code)
    first, second = group(2, store)
    worker = Worker()

    def set_up(start: Any) -> Worker:
        heard.append(start)
        return worker

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second.follow, set_up)
        wait_until(lambda: store.add("group/joined", 0) == 2)
        told = list(first.lead(iter(singles(4)), Worker(), {"finished": ["again"]}, 4))
        first.finish(0)
        assert other.result(PATIENCE_S) == 0
    assert heard == [{"finished": ["again"]}] and {outcome.id for outcome in told} == {f"i{n:02}" for n in range(4)}


def test_a_round_after_one_that_was_killed_takes_nothing_of_it() -> None:
    """Both ranks ended at work: their batches, and a third rank that was never answered, lie in the store."""
    store = distributed.HashStore()
    outcomes = group(2, store)[0].lead(iter(singles(50)), Worker(), {}, 50)
    next(outcomes)
    store.add("group/1/present", 1)
    wait_until(lambda: all(thread.name != "greeter" for thread in threading.enumerate()))  # as if it were dead
    store.add("group/joined", 1)
    told, codes = run_group(group(3, store), [Worker(), Worker(), Worker()], [batch_of("x"), batch_of("y")], 0)
    assert {outcome.id for outcome in told} == {"x", "y"} and codes == [0, 0]
    outcomes.close()  # type: ignore[attr-defined]


def test_a_rank_that_comes_when_all_is_done_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrun, "JOIN_S", PATIENCE_S)
    first, second = group(2)
    list(first.lead(iter(singles(3)), Worker(), {}, 3))
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(first.finish, 3)
        with pytest.raises(TimeoutError):
            ending.result(0.2)
        assert second.follow(lambda start: Worker()) == 3
        ending.result(PATIENCE_S)


# --- as torchrun starts them ----------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    shapes = ((24, 33), (24, 32), (17, 40), (40, 16))
    scenes = {f"p{index:02}": (shapes[index % 4], ["aeroplane", "dog"][: 1 + index % 2]) for index in range(24)}
    return write_world(tmp_path / "VOC2012", scenes)


def command(photos: Path, weights: Path, out: Path, *more: str) -> list[str]:
    options = ["--dataset", "voc12", "--img_root", str(photos), "--cam_out_dir", str(out), "--batch_size", "2"]
    return [str(ROOT / "generate_cams.py"), *options, "--model", str(weights), "--device", "cpu", *more]


def started(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, text=True, **pipes)  # type: ignore[call-overload]


GROUP = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def maps(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*.npz")}


@pytest.mark.slow
def test_torchrun_makes_the_files_of_one_process(photos: Path, weights: Path, tmp_path: Path) -> None:
    """One image is broken; torchrun may try again, by which nothing is made twice."""
    bad = photos / "JPEGImages" / "p05.jpg"
    bad.write_bytes(bad.read_bytes()[:-200])
    alone = started(command(photos, weights, tmp_path / "one"), tmp_path)
    group = started([*GROUP, "--max-restarts=1", *command(photos, weights, tmp_path / "two")], tmp_path)
    assert alone.communicate(timeout=PATIENCE_S) and alone.returncode == 3
    said, errors = group.communicate(timeout=PATIENCE_S)
    assert group.returncode == 1  # torchrun's own, when its processes end with 3
    assert said.count("data    voc12: 24 images") == 2 and errors.count("  p05: ") == 2  # in each of its two tries
    assert "23 CAM files written in" in said and "0 CAM files written, 23 already there in" in said
    assert (tmp_path / "two" / "run.json").is_file()
    assert maps(tmp_path / "one") == maps(tmp_path / "two") and len(maps(tmp_path / "two")) == 23


def ranks_of(agent: int) -> dict[str, int]:
    """The processes that a torchrun has started, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            parent = int((place.parent / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == agent:
                pairs = (entry.partition("=") for entry in place.read_text().split("\0"))
                found |= {value: int(place.parent.name) for name, _, value in pairs if name == "RANK"}
        except OSError:
            continue
    return found


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the processes in /proc")
def test_a_rank_that_is_killed_costs_nothing(photos: Path, weights: Path, tmp_path: Path) -> None:
    """torchrun ends the others and, as it is told to, starts all of them again."""
    alone = started(command(photos, weights, tmp_path / "one"), tmp_path)
    assert alone.communicate(timeout=PATIENCE_S) and alone.returncode == 0
    out = tmp_path / "two"
    group = started([*GROUP, "--max-restarts=1", *command(photos, weights, out)], tmp_path)
    wait_until(lambda: bool(maps(out)))
    os.kill(ranks_of(group.pid)["1"], signal.SIGKILL)
    said, errors = group.communicate(timeout=PATIENCE_S)
    assert group.returncode == 0, errors
    assert maps(out) == maps(tmp_path / "one") and "already there" in said
