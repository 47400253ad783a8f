"""Nothing is lost: commands that are killed, stopped, doubled or without room end with what undisturbed ones leave.

Byte for byte, and with no temporary files; of run.json, which holds times, the status, settings and counts. The short
tests are for every run of the suite; the long ones are the same with more commands and more kills.
"""

import json
import random
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.endurance.started import KILLED, Started
from tests.endurance.world import CAMS, COUNT, CRF, RUN, STAGES, WORKERS, World, count, record
from tests.made import made

pytestmark = pytest.mark.slow

SPELLED = {CAMS: "generate_cams.py", CRF: "eval_cam_with_crf.py", RUN: "-m scripts.run"}


def also_long(short: list[tuple], long: list[tuple]) -> list[object]:
    """Parameters of which the second ones are for `scripts/test.sh -m long`."""
    return [*short, *(pytest.param(*each, marks=pytest.mark.long) for each in long)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("toy"))
    yield world
    world.close()


@pytest.mark.parametrize(
    ("name", "kills"),
    also_long([(CAMS, 4), (RUN, 2)], [*((name, 20) for name in STAGES), (WORKERS, 5)]),
)
def test_kill_9_at_random_moments_then_the_same_command(name: str, kills: int, world: World, tmp_path: Path) -> None:
    """What comes too late for a run counts as its end, which must be a good one; a new folder follows."""
    world.whole(name)
    rng, out, killed, midway = random.Random(2025), tmp_path / "out 0", 0, 0
    while killed < kills or (midway < kills // 2 and killed < 9 * kills):  # a busy machine may miss the moments
        running = world.start(name, out)
        world.wait_for_a_moment(rng, running, name, out)
        if running.send(signal.SIGKILL) == KILLED:
            killed, midway = killed + 1, midway + world.begun(out)
            assert world.halves(name, out) == []
        else:
            assert running.code == 3 and world.differences(name, out) == [], running.said
            out = tmp_path / f"out {killed}"
    world.again(name, out)
    assert midway >= kills // 2


@pytest.mark.parametrize("name", [CAMS, RUN, *(pytest.param(name, marks=pytest.mark.long) for name in (CRF, WORKERS))])
@pytest.mark.parametrize(("number", "alone", "code"), [(signal.SIGINT, False, 130), (signal.SIGTERM, True, 143)])
def test_a_signal_ends_in_order_and_what_is_printed_goes_on(
    name: str, number: signal.Signals, alone: bool, code: int, world: World, tmp_path: Path
) -> None:
    """Ctrl-C reaches all processes, as from a terminal; SIGTERM the first, as clusters send it."""
    world.whole(name)
    module, out = name.split()[0], tmp_path / "my output"
    running = stop_midway(world, name, out, number, alone)
    assert running.code == code, running.said
    assert world.halves(name, out) == [] and count(out) > 0 and not list(out.glob(".*"))
    run = record(out)
    assert run["status"] == "interrupted" and run["ended"] and run["counts"]["made"] <= count(out)
    assert "Traceback" not in running.said and "interrupted" in running.said
    start, _, options = running.said.splitlines()[-1].partition(f"python {SPELLED[module]} ")
    argv = shlex.split(options)
    assert start == "continue with: " and argv == [str(part) for part in world.argv(name, out)]
    again = world.start_as(module, argv, spawned=name == WORKERS)
    assert again.wait() == 3 and world.differences(name, out) == []


def stop_midway(world: World, name: str, out: Path, number: signal.Signals, alone: bool) -> Started:
    """A run that got a signal before it was done; on a busy machine that may need a second try."""
    while True:
        running = world.start(name, out)
        running.wait(until=lambda: count(out) >= 2 and record(out) != {})
        if running.send(number, alone) != 3:
            return running
        shutil.rmtree(out)


# --- two at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "times"), also_long([(CAMS, 1), (RUN, 1)], [(name, 5) for name in STAGES]))
def test_two_at_once_in_one_folder_do_not_damage_each_other(
    name: str, times: int, world: World, tmp_path: Path
) -> None:
    for turn in range(times):
        out = tmp_path / f"{turn}"
        pair = [world.start(name, out) for _ in range(2)]
        assert [running.wait() for running in pair] == [3, 3], [running.said for running in pair]
        assert world.differences(name, out) == []


def test_one_that_is_killed_beside_another_costs_it_nothing(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed, other = (world.start(CAMS, out) for _ in range(2))
    killed.wait(until=lambda: count(out) >= 2)
    killed.send(signal.SIGKILL)
    assert other.wait() == 3, other.said
    world.again(CAMS, out)  # sweeps what the first may have left


# --- a full disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CAMS, *(pytest.param(name, marks=pytest.mark.long) for name in (CRF, RUN))])
def test_a_full_disk_stops_the_run_and_costs_nothing(name: str, world: World, tmp_path: Path) -> None:
    pages = sum(-(-len(data) // 4096) for data in world.whole(name).values())
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * (pages // 2)}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        out = disk / "out"
        stopped = world.start(name, out)
        assert stopped.wait() == 3
        lines = [line for line in stopped.said.splitlines() if line.startswith("stopped: ")]
        assert len(lines) == 1 and "Traceback" not in stopped.said, stopped.said
        assert "No space left on device" in lines[0] and lines[0].endswith(" kB are free; make room")
        left = COUNT - count(out)
        assert any(f"{left - failed} of {COUNT} images are left" in lines[0] for failed in (1, 2))
        assert stopped.said.splitlines()[-1].startswith(f"continue with: python {SPELLED[name]} ")
        assert world.begun(out) and world.halves(name, out) == [] and not list(out.glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        world.again(name, out)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_so_does_a_limit_on_the_size_of_files(world: World, tmp_path: Path) -> None:
    """`ulimit -f`, for which no rights are needed. The first file that is larger stops the run."""
    sizes = {name: len(data) for name, data in world.whole(RUN).items() if name.endswith(".png")}
    limit = max(2000, sorted(sizes.values())[len(sizes) // 2])  # run.json fits
    assert max(sizes.values()) > limit
    out = tmp_path / "out"
    stopped = world.start(RUN, out, largest=limit)
    assert stopped.wait() == 3 and "(File too large)" in stopped.said and "Traceback" not in stopped.said
    assert record(out)["status"] == "stopped" and not list(out.glob(".*"))
    world.again(RUN, out)


# --- changed settings -----------------------------------------------------------------------------


def test_another_split_with_other_settings_is_refused(world: World, tmp_path: Path) -> None:
    """None of its files is there yet: run.json alone tells."""
    for number, image_id in enumerate(world.ids[:2]):
        (tmp_path / f"{number}.txt").write_text(image_id)
    out = tmp_path / "out"
    assert world.start(CAMS, out, "--split_file", tmp_path / "0.txt").wait() == 0
    before = made(out)
    refused = world.start(CAMS, out, "--split_file", tmp_path / "1.txt", "--box_threshold", 0.7)
    assert refused.wait() == 2 and "box_threshold 0.4 (now 0.7); pass --overwrite" in refused.said
    assert made(out) == before and record(out)["status"] == "done"
    assert world.start(CAMS, out, "--split_file", tmp_path / "1.txt").wait() == 0 and len(made(out)) == 2


# --- labels by CLIP -------------------------------------------------------------------------------


def test_tags_of_a_killed_run_are_not_made_again(world: World, tmp_path: Path) -> None:
    """`--labels clip`: the journal holds them until the CAM files are made."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(6):
        shutil.copy(world.images / f"{world.ids[index]}.jpg", photos / f"{index}.jpg")
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photos / "6.jpg")
    (tmp_path / "classes.txt").write_text("house\ncar\nfish\ncup\nflower\nboat\nball\ntree\n[background]\nground\n")
    options = ["--dataset", "folder", "--img_root", photos, "--classes", tmp_path / "classes.txt", "--labels", "clip"]
    options += ["--model", Path("toyworld/clip.pt").resolve(), "--templates", "dataset", "--device", "cpu"]
    assert world.start_as(CAMS, [*options, "--cam_out_dir", tmp_path / "whole"]).wait() == 0
    part = out / "tags.txt.part"
    while True:  # on a busy machine it may be done before it is killed
        killed = world.start_as(CAMS, [*options, "--cam_out_dir", out])
        killed.wait(until=lambda: lines_of(part) > 3)
        if killed.send(signal.SIGKILL) == KILLED:
            break
        assert killed.code == 0, killed.said
        shutil.rmtree(out)
    lines = part.read_text().splitlines()[1:-1]  # the first says how, the last may be half
    image_id, source, scores = json.loads(lines[0])
    part.write_text(part.read_text().replace(lines[0], json.dumps([image_id, source, [0.0] * 7 + [1.0]])))
    assert world.start_as(CAMS, [*options, "--cam_out_dir", out]).wait() == 0
    assert not part.exists() and len(scores) == 8
    tags = [(folder / "tags.txt").read_text().splitlines() for folder in (tmp_path / "whole", out)]
    assert tags[1][0].split() == [image_id, "7"] and tags[0][1:] == tags[1][1:]


def lines_of(path: Path) -> int:
    """How many lines a file has now; 0 when it is not there (any more)."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
