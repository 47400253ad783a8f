"""Processes that die, and files that somebody harmed: the same command mends it, and nothing else is lost."""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.endurance.started import KILLED, Started, bound_by_rights, spawn
from tests.endurance.world import CAMS, CODE, COUNT, READERS, STAGES, WORKERS, World, count
from tests.made import made

TIMES = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("toy"))
    yield world
    world.close()


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", [WORKERS, READERS])
def test_kill_9_of_the_parent_alone(name: str, world: World, tmp_path: Path) -> None:
    """Its workers end by themselves."""
    world.whole(name)
    rng, killed = random.Random(2025), 0
    while killed < TIMES:
        out = tmp_path / f"{killed}"
        running = world.start(name, out)
        world.wait_for_a_moment(rng, running, name, out)
        if running.send(signal.SIGKILL, alone=True) == KILLED:
            killed += 1
            running.wait_for_kin(60)
            assert world.halves(name, out) == []
            world.again(name, out)
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.long
@pytest.mark.parametrize(("name", "kills"), [(WORKERS, 4 * TIMES), (READERS, TIMES)])
def test_kill_9_of_a_worker(name: str, kills: int, world: World, tmp_path: Path) -> None:
    """Where images are computed, the command goes on to its end; where they are read, it stops and can be repeated."""
    world.whole(name)
    rng, killed = random.Random(2025), 0
    while killed < kills:
        out = tmp_path / "out"
        running = world.start(name, out)
        world.wait_for_a_moment(rng, running, name, out)
        killed += kill_one(rng, running.kin("spawn_main"))
        assert running.wait() == CODE and "Traceback" not in running.said, running.said
        assert world.halves(name, out) == []
        if name == WORKERS:
            assert world.differences(name, out) == []
        else:
            world.again(name, out)
        shutil.rmtree(out)


def kill_one(rng: random.Random, processes: list[int]) -> bool:
    """Kill one of them; whether there was one."""
    with suppress(IndexError, ProcessLookupError):
        os.kill(rng.choice(processes), signal.SIGKILL)
        return True
    return False


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", STAGES)
def test_files_that_were_cut_emptied_changed_or_removed_are_made_again(name: str, world: World, tmp_path: Path) -> None:
    world.whole(name)
    out = Path(shutil.copytree(world.place(name), tmp_path / "out"))
    cut, emptied, text, flipped, removed, *_ = sorted(path for path in out.iterdir() if path.suffix in (".npz", ".png"))
    whole = flipped.read_bytes()
    middle = len(whole) // 2
    cut.write_bytes(cut.read_bytes()[:-20])
    emptied.write_bytes(b"")
    text.write_bytes(b"no picture")
    flipped.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    removed.unlink()
    (out / ".4711.0123abcd.tmp").write_bytes(b"left by a process that was killed")
    (out / "run.json").write_text("{")
    world.again(name, out)


@pytest.mark.long
@pytest.mark.parametrize("name", STAGES)
def test_an_image_that_may_not_be_read_fails_alone(name: str, world: World, tmp_path: Path) -> None:
    """Once it may be read, the same command makes its file."""
    prefix, image, out = bound_by_rights(), world.images / f"{world.ids[0]}.jpg", tmp_path / "out"
    if prefix is None:
        pytest.skip("root reads everything here")
    world.whole(name)
    rights = image.stat().st_mode
    image.chmod(0)
    try:
        running = world.start(name, out, before=prefix)
        assert running.wait() == CODE, running.said
    finally:
        image.chmod(rights)
    assert made(out)["failures.jsonl"].decode().count(image.stem + '"') == 1 and count(out) == COUNT - 3
    assert world.halves(name, out) == []
    world.again(name, out)


# --- whether a fault would be seen ----------------------------------------------------------------


def test_every_difference_is_seen(world: World, tmp_path: Path) -> None:
    world.whole(CAMS)
    out = Path(shutil.copytree(world.place(CAMS), tmp_path / "out"))
    path = sorted(out.glob("*.npz"))[0]
    whole, run = path.read_bytes(), (out / "run.json").read_text()
    assert world.differences(CAMS, out) == world.halves(CAMS, out) == [] and not world.begun(out)
    path.write_bytes(whole[:-1])
    assert world.differences(CAMS, out) == world.halves(CAMS, out) == [path.name]
    path.unlink()
    assert world.differences(CAMS, out) == [path.name] and world.halves(CAMS, out) == [] and world.begun(out)
    path.write_bytes(whole)
    for changed in (run.replace('"incomplete"', '"running"'), run.replace('"failed": 2', '"failed": 1'), "{"):
        (out / "run.json").write_text(changed)
        assert changed != run and world.differences(CAMS, out) == ["run.json"]
    (out / "run.json").write_text(run)
    (out / ".1.0123abcd.tmp").touch()
    assert world.differences(CAMS, out) == [".1.0123abcd.tmp"]


SLEEPS = ["-c", "import time; print('begun', flush=True); time.sleep(600)"]
PARENT = ["-c", f"import subprocess, sys; subprocess.run([sys.executable, *{SLEEPS!r}])"]


def parent(tmp_path: Path) -> Started:
    running = spawn(PARENT, tmp_path / "said.txt")
    running.wait(until=lambda: "begun" in running.said)
    assert len(running.kin("time.sleep(600)")) == 1
    return running


def test_a_signal_reaches_the_whole_group(tmp_path: Path) -> None:
    with parent(tmp_path) as running:
        assert running.send(signal.SIGKILL) == KILLED and not running.kin()


def test_workers_that_outlive_their_parent_are_seen_and_ended(tmp_path: Path) -> None:
    with parent(tmp_path) as running:
        assert running.send(signal.SIGKILL, alone=True) == KILLED
        with pytest.raises(AssertionError, match="outlive"):
            running.wait_for_kin(0.05)
    assert not running.kin()


def test_rights_bind_even_root(tmp_path: Path) -> None:
    prefix, secret = bound_by_rights(), tmp_path / "secret"
    if prefix is None:
        pytest.skip("root here cannot give its rights away")
    secret.write_text("x")
    secret.chmod(0)
    with spawn(["-c", f"open({str(secret)!r})"], tmp_path / "said.txt", prefix) as running:
        assert running.wait() == 1 and "PermissionError" in running.said
