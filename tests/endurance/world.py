"""The real commands on a small toy world, and whether they leave what an undisturbed run leaves."""

import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.run_record import RUN_FILE
from tests.endurance.started import Started, fork, spawn
from tests.made import made
from toyworld.layout import write_dataset

CAMS, CRF, RUN = STAGES = "generate_cams", "eval_cam_with_crf", "scripts.run"
WORKERS, READERS = "generate_cams --num_workers 2", "scripts.run --readers 2"  # these start processes
SEED, COUNT = 2025, 14
BROKEN_XML, BROKEN_IMAGE = 2, 6  # places in the list
CODE = 3  # of every command here that is not disturbed, as two images fail


@dataclass
class World:
    """Fourteen toy scenes, of which one image and one annotation are broken. `close` ends all that was started."""

    folder: Path
    ids: list[str] = field(default_factory=list)
    count: int = 0
    running: ExitStack = field(default_factory=ExitStack)
    _whole: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _start_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = write_dataset(self.data, SEED, COUNT)
        (self.images / f"{self.ids[BROKEN_IMAGE]}.jpg").write_bytes(b"no image")
        (self.data / "Annotations" / f"{self.ids[BROKEN_XML]}.xml").write_text("<annotation>")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def images(self) -> Path:
        return self.data / "JPEGImages"

    def close(self) -> None:
        self.running.close()

    # --- commands ---

    def argv(self, name: str, out: Path) -> list[object]:
        """The options of a command."""
        data = ["--img_root", self.images, "--device", "cpu"]
        if name in (CAMS, WORKERS):
            return ["--cam_out_dir", out, *data, *(["--num_workers", 2] if name == WORKERS else ["--batch_size", 3])]
        masks = ["--pseudo_mask_save_path", out, *data]
        if name == CRF:
            self.whole(CAMS)
            return [*masks, "--cam_out_dir", self.place(CAMS)]
        return [*masks, *(["--readers", 2] if name == READERS else [])]

    def start(
        self, name: str, out: Path, *more: object, before: Sequence[str] | None = None, largest: int | None = None
    ) -> Started:
        """Start a command; those that start no processes themselves are forked, which is quick."""
        return self.start_as(name.split()[0], [*self.argv(name, out), *more], name not in STAGES, before, largest)

    def start_as(
        self,
        module: str,
        argv: Sequence[object],
        spawned: bool = False,
        before: Sequence[str] | None = None,
        largest: int | None = None,
    ) -> Started:
        self.count += 1
        said = self.folder / f"said {self.count}.txt"
        if spawned or before:
            started = spawn(["-m", module, *argv], said, before or ())
        else:
            started = fork(module, argv, said, largest)
        return self.running.enter_context(started)

    def place(self, name: str) -> Path:
        """Where the undisturbed run of a command wrote."""
        return self.folder / "whole" / name

    def whole(self, name: str) -> dict[str, bytes]:
        """The files of an undisturbed run, which is made when they are first asked for."""
        if name not in self._whole:
            out, begun = self.place(name), time.monotonic()
            running = self.start(name, out)
            running.wait(until=lambda: count(out) > 0)
            self._start_s[name] = time.monotonic() - begun
            assert running.wait() == CODE, running.said
            self._whole[name] = made(out)
            failures = [json.loads(line)["id"] for line in self._whole[name]["failures.jsonl"].splitlines()]
            assert failures == [self.ids[BROKEN_XML], self.ids[BROKEN_IMAGE]] and count(out) == COUNT - 2
        return self._whole[name]

    def wait_for_a_moment(self, rng: random.Random, running: Started, name: str, out: Path) -> None:
        """Until some time before the first file (one of four times), or shortly after one of the next three."""
        if count(out) == 0 and rng.random() < 0.25:
            running.wait(until=after(rng.uniform(0, self._start_s[name])))
            return
        goal = count(out) + rng.randint(1, 3)
        running.wait(until=lambda: count(out) >= goal)
        running.wait(until=after(rng.uniform(0, 0.1)))

    # --- what is lost ---

    def again(self, name: str, out: Path) -> None:
        """Give the command as it was; its folder must end as an undisturbed run leaves it."""
        running = self.start(name, out)
        assert running.wait() == CODE, running.said
        assert self.differences(name, out) == []

    def differences(self, name: str, out: Path) -> list[str]:
        """Files that are missing, nobody's, or of other bytes; run.json where its counts do not add up."""
        whole, found = self.whole(name), made(out)
        wrong = [key for key in {**whole, **found} if found.get(key) != whole.get(key)]
        return wrong + [RUN_FILE] * (summed(record(out)) != summed(record(self.place(name))))

    def halves(self, name: str, out: Path) -> list[str]:
        """Files of results that are not as they will be in the end."""
        whole = self.whole(name)
        return [key for key, data in made(out).items() if is_result(key) and whole.get(key) != data]

    def begun(self, out: Path) -> bool:
        """Whether some of the files are there and some are not."""
        return 0 < count(out) < COUNT - 2


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def is_result(name: str) -> bool:
    return name.endswith((".npz", ".png"))


def count(out: Path) -> int:
    """How many results there are."""
    return sum(1 for path in out.glob("*") if is_result(path.name))


def record(out: Path) -> dict[str, Any]:
    """The folder's run.json; empty when there is none that can be read."""
    try:
        return json.loads((out / RUN_FILE).read_bytes())
    except (OSError, ValueError):
        return {}


def summed(run: dict[str, Any]) -> tuple[Any, ...]:
    """What two records of the same work have in common, however often it was interrupted."""
    counts = run.get("counts", {})
    done = counts.get("made", 0) + counts.get("kept", 0)
    return run.get("status"), counts.get("images"), counts.get("failed"), done, run.get("settings")
