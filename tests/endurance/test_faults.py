"""What a fault is seen to cost, by hand; then a few of the faults."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.started import Hangs, started
from tests.endurance import fault_world, faults
from tests.endurance.fault_world import CAMS, World
from tests.support import Command

WHOLE = {"a.npz": b"1" * 300, "b.npz": b"2" * 300, "failures.jsonl": b"{}"}
RECORD = {"status": "incomplete", "counts": {"images": 4, "made": 2, "kept": 0, "failed": 2}, "settings": {"x": 1}}


def fill(folder: Path, files: dict[str, bytes], **record: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "run.json").write_text(json.dumps(RECORD | record))
    return folder


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One whose undisturbed run left WHOLE."""
    world = World(tmp_path, 7, 2)
    fill(world.place(CAMS), WHOLE)
    world._whole[CAMS], world._start_s[CAMS] = fault_world.made(world.place(CAMS)), 0.0
    return world


def test_the_world_has_two_broken_images(world: World) -> None:
    assert len(world.ids) == 7 and len(world.split.read_text().split()) == 5
    assert (world.images / f"{world.ids[5]}.jpg").read_bytes() == b"no image"


def test_every_difference_is_seen(world: World) -> None:
    same = fill(world.out(), WHOLE, counts={"images": 4, "made": 1, "kept": 1, "failed": 2})
    assert world.differences(CAMS, same) == [] and world.whole(CAMS) == WHOLE
    assert len(world.differences(CAMS, fill(world.out(), {**WHOLE, "a.npz": b"?"}))) == 1
    assert len(world.differences(CAMS, fill(world.out(), {"a.npz": WHOLE["a.npz"]}))) == 2
    assert len(world.differences(CAMS, fill(world.out(), {**WHOLE, ".1.0123abcd.tmp": b""}))) == 1
    assert len(world.differences(CAMS, fill(world.out(), WHOLE, status="running"))) == 1
    assert len(world.differences(CAMS, fill(world.out(), WHOLE, settings={}))) == 1
    assert len(world.differences(CAMS, fill(world.out(), WHOLE, counts={**RECORD["counts"], "made": 1}))) == 1  # type: ignore[dict-item]
    (same / "run.json").write_text("{")
    assert len(world.differences(CAMS, same)) == 1


def test_half_a_file_and_half_the_work_are_seen(world: World) -> None:
    out = fill(world.out(), {"a.npz": WHOLE["a.npz"], ".1.0123abcd.tmp": b"1", "failures.jsonl": b"half"})
    assert world.begun(CAMS, out) and world.halves(CAMS, out) == [] and fault_world.leftovers(out) == 1
    (out / "a.npz").write_bytes(b"11")
    assert len(world.halves(CAMS, out)) == 1
    (out / "b.npz").write_bytes(WHOLE["b.npz"])
    assert not world.begun(CAMS, out) and not world.begun(CAMS, world.out())


WRITES = """
import pathlib, sys, time
out = pathlib.Path(sys.argv[1]); out.mkdir(exist_ok=True)
for name in ("a", "b"):
    if not (out / f"{name}.npz").exists():
        (out / f"{name}.npz").write_bytes({"a": b"1", "b": b"2"}[name] * 300)
        time.sleep(0.1)
(out / "failures.jsonl").write_text("{}")
(out / "run.json").write_text('RECORD')
sys.exit(3)
""".replace("RECORD", json.dumps(RECORD))


def test_kills_are_counted_and_what_they_cost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that writes two files, and in another run halves of them, in place of the real ones."""
    monkeypatch.setattr(World, "start", lambda self, name, out: started(["-c", WRITES, out]))
    row = faults.struck(world, "kill", CAMS, 3, lambda running: running.send(signal.SIGKILL), 137)
    assert row["times"] == 3 and row["lost"] == [] and row["begun"] >= 1
    monkeypatch.setattr(World, "start", lambda self, name, out: started(["-c", WRITES.replace("300", "200"), out]))
    assert len(faults.struck(world, "kill", CAMS, 1, lambda it: it.send(signal.SIGKILL), 137)["lost"]) >= 2


def test_workers_that_outlive_their_parent_are_seen(world: World) -> None:
    sleeps = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with started(["-c", sleeps]) as running:
        running.wait(until=lambda: bool(running.kin()))
        running.send(signal.SIGKILL, alone=True)
        with pytest.raises(Hangs, match="outlive"):
            faults.wait_for_end_of_kin(running, 0.05)
        assert faults.kill_one(world, running.kin()) and not faults.kill_one(world, [])


def test_five_files_are_damaged_each_in_its_way(tmp_path: Path) -> None:
    files = {f"{name}.npz": bytes([number]) * 300 for number, name in enumerate("abcdef")}
    out = fill(tmp_path / "out", files)
    faults.harm_files(out)
    found = fault_world.results(out)
    assert [found.get(name) == data for name, data in files.items()] == [False] * 5 + [True]
    assert "e.npz" not in found and len(found["d.npz"]) == 300 and fault_world.leftovers(out) == 1


def test_a_command_that_hangs_is_a_loss(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(world: World) -> Iterator[faults.Row]:
        raise Hangs("it did not end")

    monkeypatch.setitem(faults.FAULTS, "hangs", hangs)
    assert faults.tried(world, "hangs")[0]["lost"] == ["it did not end"]


def test_an_unknown_fault_is_one_line(command: Command) -> None:
    ended = command("tests.endurance.faults", "--only", "flood")
    assert ended.code == 2 and ended.err.startswith("error: --only flood: unknown; expected some of kill_group")


@pytest.mark.slow
@pytest.mark.long
def test_quick_faults_cost_nothing(command: Command, tmp_path: Path) -> None:
    ended = command("tests.endurance.faults", "--quick", "--json", tmp_path / "r.json")
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert len(rows) == len(ended.out.splitlines()) - 2 and all(row["lost"] == [] for row in rows)
    assert {row["command"] for row in rows} >= {*faults.STAGES} and all(row["times"] >= 1 for row in rows)
