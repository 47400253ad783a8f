"""Nothing is lost: commands that are killed, stopped, doubled or without room end with what undisturbed ones leave.

Byte for byte, and with no temporary files; run.json, which holds times, is looked at by itself.
"""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.forks import Forks, Running
from tests.made import made
from toyworld.layout import write_dataset

pytestmark = pytest.mark.slow

COUNT = 14
KILLS = 20
CAMS, RUN = "generate_cams", "scripts.run"
OUT = {CAMS: "--cam_out_dir", RUN: "--pseudo_mask_save_path"}
SUFFIX = {CAMS: "npz", RUN: "png"}
TYPED = {CAMS: "generate_cams.py", RUN: "-m scripts.run"}


@dataclass(frozen=True)
class World:
    """Fourteen toy scenes, of which one image and one annotation are broken, and what undisturbed runs make of them."""

    forks: Forks
    root: Path
    whole: dict[str, dict[str, bytes]]

    def argv(self, module: str, out: Path) -> list[object]:
        options = ["--device", "cpu", *(["--batch_size", 3] if module == CAMS else [])]
        return ["--img_root", self.root / "JPEGImages", OUT[module], out, *options]

    def start(self, module: str, out: Path, *more: object, largest: int | None = None) -> Running:
        return self.forks.start(module, *self.argv(module, out), *more, largest=largest)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> World:
    root = tmp_path_factory.mktemp("toy")
    ids = write_dataset(root, 2025, COUNT)
    (root / "JPEGImages" / f"{ids[6]}.jpg").write_bytes(b"no image")
    (root / "Annotations" / f"{ids[2]}.xml").write_text("<annotation>")
    world = World(forks, root, {})
    for module in (CAMS, RUN):
        running = world.start(module, root / module)
        assert running.wait() == 3, running.said
        world.whole[module] = made(root / module)
        assert len(world.whole[module]) == COUNT - 2 + 1
        assert [failure["id"] for failure in failures(world.whole[module])] == [ids[2], ids[6]]
    return world


def failures(files: dict[str, bytes]) -> list[dict[str, str]]:
    return [json.loads(line) for line in files["failures.jsonl"].splitlines()]


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


def written(out: Path, module: str) -> dict[str, bytes]:
    """The CAM files or masks."""
    return {name: data for name, data in made(out).items() if name.endswith(SUFFIX[module])}


def count(out: Path, module: str) -> int:
    return len(list(out.glob(f"*.{SUFFIX[module]}")))


# --- kill -9 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "kills"), [(CAMS, KILLS), (RUN, KILLS // 4)])
def test_kill_9_at_random_moments_then_the_same_command(module: str, kills: int, world: World, tmp_path: Path) -> None:
    """Whole runs are repeated until so many kills have hit; moments lie around those at which files appear."""
    rng, out, killed, midway = random.Random(2025), tmp_path / "out 0", 0, 0
    while killed < kills:
        if kill(world, module, out, rng):
            killed += 1
            midway += 0 < count(out, module) < COUNT - 2
            assert written(out, module).items() <= world.whole[module].items()
        else:  # it was done before
            assert made(out) == world.whole[module]
            out = tmp_path / f"out {killed}"
    assert world.start(module, out).wait() == 3
    assert made(out) == world.whole[module] and record(out)["status"] == "incomplete"
    assert midway >= kills // 2


def kill(world: World, module: str, out: Path, rng: random.Random) -> bool:
    """Start the command and kill it when it has written none to two files, or a moment later; False if it had ended."""
    goal, running = count(out, module) + rng.randrange(3), world.start(module, out)
    running.wait(until=lambda: count(out, module) >= goal)
    time.sleep(rng.uniform(0, 0.05))
    code = running.send(signal.SIGKILL)
    assert code in (3, 128 + signal.SIGKILL), running.said
    return code != 3


# --- Ctrl-C and SIGTERM ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", [CAMS, RUN])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_order_and_what_is_printed_goes_on(
    module: str, number: signal.Signals, code: int, world: World, tmp_path: Path
) -> None:
    out = tmp_path / "my output"
    running = stop_midway(world, module, out, number)
    assert running.code == code, running.said
    assert 2 <= count(out, module) < COUNT - 2 and written(out, module).items() <= world.whole[module].items()
    found = record(out)
    assert found["status"] == "interrupted" and found["ended"] and found["counts"]["made"] <= count(out, module)
    assert "Traceback" not in running.said and "interrupted" in running.said
    told = running.said.splitlines()[-1]
    assert told.startswith(f"continue with: python {TYPED[module]} ")
    argv = shlex.split(told.removeprefix(f"continue with: python {TYPED[module]} "))
    assert argv == [str(part) for part in world.argv(module, out)]
    again = world.forks.start(module, *argv)
    assert again.wait() == 3 and made(out) == world.whole[module] and record(out)["status"] == "incomplete"


def stop_midway(world: World, module: str, out: Path, number: signal.Signals) -> Running:
    """A run that got a signal before it was done; on a busy machine that may need a second try."""
    while True:
        running = world.start(module, out)
        running.wait(until=lambda: count(out, module) >= 2 and (out / "run.json").exists())
        if running.send(number) != 3:
            return running
        shutil.rmtree(out)


# --- two at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [CAMS, RUN])
def test_two_at_once_in_one_folder_do_not_damage_each_other(module: str, world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pair = [world.start(module, out) for _ in range(2)]
    assert [running.wait() for running in pair] == [3, 3], [running.said for running in pair]
    assert made(out) == world.whole[module] and record(out)["status"] == "incomplete"


def test_one_that_is_killed_beside_another_costs_it_nothing(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed, other = (world.start(CAMS, out) for _ in range(2))
    killed.wait(until=lambda: count(out, CAMS) >= 2)
    killed.send(signal.SIGKILL)
    assert other.wait() == 3, other.said
    assert world.start(CAMS, out).wait() == 3  # sweeps what the first may have left
    assert made(out) == world.whole[CAMS]


# --- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_costs_nothing(world: World, small_disk: Path) -> None:
    out = small_disk / "cams"
    stopped = world.start(CAMS, out)
    assert stopped.wait() == 3
    told = [line for line in stopped.said.splitlines() if line.startswith("stopped: ")]
    assert len(told) == 1 and "Traceback" not in stopped.said, stopped.said
    assert "No space left on device" in told[0]
    left = COUNT - count(out, CAMS)
    assert any(f"{left - failed} of {COUNT} images are left" in told[0] for failed in (1, 2))
    assert "which need about " in told[0] and told[0].endswith(" kB are free; make room")
    assert stopped.said.splitlines()[-1].startswith("continue with: python generate_cams.py ")
    assert 0 < count(out, CAMS) < COUNT - 2 and written(out, CAMS).items() <= world.whole[CAMS].items()
    assert not list(out.glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert world.start(CAMS, out).wait() == 3
    assert made(out) == world.whole[CAMS]


def test_so_does_a_limit_on_the_size_of_files(world: World, tmp_path: Path) -> None:
    """`ulimit -f`, for which no rights are needed. The first file that is larger stops the run."""
    sizes = {name: len(data) for name, data in world.whole[RUN].items() if name.endswith(".png")}
    limit = max(2000, sorted(sizes.values())[len(sizes) // 2])  # run.json fits
    assert max(sizes.values()) > limit
    out = tmp_path / "out"
    stopped = world.start(RUN, out, largest=limit)
    assert stopped.wait() == 3 and "(File too large)" in stopped.said and "Traceback" not in stopped.said
    assert record(out)["status"] == "stopped" and not list(out.glob(".*"))
    assert world.start(RUN, out).wait() == 3 and made(out) == world.whole[RUN]


# --- changed settings -----------------------------------------------------------------------------


def test_another_split_with_other_settings_is_refused(world: World, tmp_path: Path) -> None:
    """None of its files is there yet: run.json alone tells."""
    ids = (world.root / "ImageSets/Segmentation/train.txt").read_text().split()
    for number, chosen in enumerate((ids[:1], ids[1:2])):
        (tmp_path / f"{number}.txt").write_text("\n".join(chosen))
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
        shutil.copy(world.root / "JPEGImages" / f"toy_2025_{index:04}.jpg", photos / f"{index}.jpg")
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photos / "6.jpg")
    (tmp_path / "classes.txt").write_text("house\ncar\nfish\ncup\nflower\nboat\nball\ntree\n[background]\nground\n")
    options = ["--dataset", "folder", "--img_root", photos, "--classes", tmp_path / "classes.txt", "--labels", "clip"]
    options += ["--model", Path("toyworld/clip.pt").resolve(), "--templates", "dataset", "--device", "cpu"]
    assert world.forks.start(CAMS, *options, "--cam_out_dir", tmp_path / "whole").wait() == 0
    part = out / "tags.txt.part"
    killed = world.forks.start(CAMS, *options, "--cam_out_dir", out)
    killed.wait(until=lambda: part.exists() and part.read_bytes().count(b"\n") > 3)
    assert killed.send(signal.SIGKILL) == 128 + signal.SIGKILL, killed.said
    lines = part.read_text().splitlines()[1:-1]  # the first says how, the last may be half
    (image_id, scores) = json.loads(lines[0])
    part.write_text(part.read_text().replace(lines[0], json.dumps([image_id, [0.0] * 7 + [1.0]])))
    assert world.forks.start(CAMS, *options, "--cam_out_dir", out).wait() == 0
    assert not part.exists() and len(scores) == 8
    tags = [(folder / "tags.txt").read_text().splitlines() for folder in (tmp_path / "whole", out)]
    assert tags[1][0].split() == [image_id, "7"] and tags[0][1:] == tags[1][1:]
