"""What faults.py puts faults upon: the real commands on a small toy world, and how they ought to end."""

import json
import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.started import Started, started
from cli.run_record import RUN_FILE
from common.errors import EXIT_INCOMPLETE, UserError
from common.files import files_below

CAMS, CRF, RUN = STAGES = "generate_cams.py", "eval_cam_with_crf.py", "scripts.run"
WORKERS, READERS = "generate_cams.py --num_workers 2", "scripts.run --readers 2"
SEED = 2025
BROKEN_IMAGE, BROKEN_XML = 5, 2  # places in the list
AT_THE_START = 0.25  # share of the faults that come at any moment before the first file


@dataclass
class World:
    """A toy world of `count` scenes, of which one image and one annotation are broken.

    kills    times that a process is killed, for each command
    mounted  whether this process has mounts of its own (tests/endurance/faults.py, full_disk)
    quick    leaves out the commands that start processes, which takes them long
    """

    folder: Path
    count: int
    kills: int
    mounted: bool = False
    quick: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    outs: int = 0
    _whole: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _start_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from toyworld.layout import write_dataset

        self.ids = write_dataset(self.data, SEED, self.count)
        (self.images / f"{self.ids[BROKEN_IMAGE]}.jpg").write_bytes(b"no image")
        (self.data / "Annotations" / f"{self.ids[BROKEN_XML]}.xml").write_text("<annotation>")
        good = [image_id for index, image_id in enumerate(self.ids) if index not in (BROKEN_IMAGE, BROKEN_XML)]
        self.split.write_text("".join(f"{image_id}\n" for image_id in good))

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def images(self) -> Path:
        return self.data / "JPEGImages"

    @property
    def split(self) -> Path:
        """The list without the broken ones."""
        return self.folder / "good.txt"

    @property
    def commands(self) -> list[str]:
        """Those that are killed and stopped."""
        return [*STAGES] if self.quick else [*STAGES, WORKERS]

    def out(self) -> Path:
        """A new folder for files."""
        self.outs += 1
        return self.folder / f"out {self.outs}"

    # --- commands ---

    def argv(self, name: str, out: Path) -> list[object]:
        data = ["--img_root", self.images, "--device", "cpu"]
        cams, masks = [*data, "--cam_out_dir", out], [*data, "--pseudo_mask_save_path", out]
        if name == CRF:
            self.whole(CAMS)
        return {
            CAMS: [CAMS, *cams],
            WORKERS: [CAMS, *cams, "--num_workers", 2],
            CRF: [CRF, *masks, "--cam_out_dir", self.place(CAMS)],
            RUN: ["-m", RUN, *masks],
            READERS: ["-m", RUN, *masks, "--readers", 2],
        }[name]

    def code(self, name: str) -> int:
        """The exit code of a command that is not disturbed."""
        return EXIT_INCOMPLETE

    def place(self, name: str) -> Path:
        """Where the undisturbed run of a command wrote."""
        return self.folder / "whole" / name

    def whole(self, name: str) -> dict[str, bytes]:
        """The files of an undisturbed run, which is made when they are asked for first."""
        if name not in self._whole:
            out, begun = self.place(name), time.monotonic()
            with self.start(name, out) as running:
                running.wait(until=lambda: count(out) > 0)
                self._start_s[name] = time.monotonic() - begun
                if running.wait() != self.code(name):
                    raise UserError(f"{name}, undisturbed: exit code {running.code}: {running.said[-300:]}")
            self._whole[name] = made(out)
        return self._whole[name]

    def wait_for_a_moment(self, running: Started, name: str, out: Path) -> None:
        """Until some time before the first file, or shortly after one of the next three."""
        if count(out) == 0 and self.rng.random() < AT_THE_START:
            running.wait(until=after(self.rng.uniform(0, self._start_s[name])))
            return
        goal = count(out) + self.rng.randint(1, 3)
        running.wait(until=lambda: count(out) >= goal)
        running.wait(until=after(self.rng.uniform(0, 0.1)))

    def start(self, name: str, out: Path, before: Sequence[str] = ()) -> AbstractContextManager[Started]:
        """Start a command; those that start no processes themselves are forked, which is quick."""
        return started(self.argv(name, out), before, warm=name in STAGES and not before)

    # --- what is lost ---

    def again(self, name: str, out: Path) -> list[str]:
        """Give the command as it was; what is not as an undisturbed run leaves it."""
        with self.start(name, out) as running:
            code = running.wait()
        wrong = [] if code == self.code(name) else [f"{name}, again: exit code {code}: {running.said[-200:]}"]
        return [*wrong, *self.differences(name, out)]

    def differences(self, name: str, out: Path) -> list[str]:
        """Files that are missing, nobody's, or of other bytes; counts in run.json that do not add up."""
        whole, found = self.whole(name), made(out)
        wrong = [
            f"{name}: {key} {'differs' if key in found else 'missing'}" for key in whole if found.get(key) != whole[key]
        ]
        wrong += [f"{name}: {key} left behind" for key in found if key not in whole]
        told, wanted = record(out), record(self.place(name))
        return wrong if summed(told) == summed(wanted) else [*wrong, f"{name}: {RUN_FILE} {summed(told)}"]

    def halves(self, name: str, out: Path) -> list[str]:
        """Files of results that are not as they will be in the end."""
        whole = self.whole(name)
        return [f"{name}: half a file, {key}" for key, data in results(out).items() if whole.get(key) != data]

    def begun(self, name: str, out: Path) -> bool:
        """Whether some of the files are there and some are not."""
        return 0 < count(out) < len([key for key in self.whole(name) if is_result(key)])


def after(seconds: float) -> Any:
    """Whether so much time has passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def is_result(name: str) -> bool:
    return name.endswith((".npz", ".png"))


def made(out: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, but for run.json, which holds times."""
    names = [Path(path).relative_to(out).as_posix() for path in files_below(out)]
    return {name: (out / name).read_bytes() for name in sorted(names) if name != RUN_FILE}


def results(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in made(out).items() if is_result(name)}


def count(out: Path) -> int:
    """How many results there are."""
    return sum(1 for path in files_below(out) if is_result(path))


def leftovers(out: Path) -> int:
    """How many temporary files lie there."""
    return sum(1 for path in files_below(out) if path.endswith(".tmp"))


def record(out: Path) -> dict[str, Any]:
    """The folder's run.json; empty when there is none that can be read."""
    try:
        found = json.loads((out / RUN_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def summed(told: dict[str, Any]) -> tuple[Any, ...]:
    """What two records of the same work have in common, however often it was interrupted."""
    counts = told.get("counts", {})
    done = [counts.get(key, 0) for key in ("made", "kept")]
    return told.get("status"), counts.get("images"), counts.get("failed"), sum(done), told.get("settings")


def lines_with(said: str, words: Sequence[str]) -> list[str]:
    return [line for line in said.splitlines() if any(word in line for word in words)]
