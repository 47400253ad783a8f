"""What test_soak.py does with a long list: runs the commands on it, and looks at all that they left.

After a command on a list with broken images in it

- it ended with exit code 3, without a traceback, and nothing that it was given was run
- exactly the whole images have CAM files or masks: byte for byte those of the same images in a run of their own, in
  another order, without any broken one; masks have the size of their images
- exactly the broken ones are named in failures.jsonl, in the order of the list, and the counts of run.json add up
- there is no other file, and nothing outside the output folder was touched
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from cli.run_log import FAILURES_FILE
from cli.run_record import RUN_FILE
from common.files import files_below
from tests.endurance.broken import Break, cam_files
from tests.endurance.soak_data import DataSet, Source, make_set, make_sources
from tests.endurance.started import Started, spawn

CAMS, CRF, RUN = "generate_cams", "eval_cam_with_crf", "scripts.run"
SECRET = "zeppelin-4711"  # in a file that an annotation would like to show
SHARE = 0.05  # of broken images


@dataclass
class Soak:
    """What all runs share.

    sources  whole images, which the lists are made of
    breaks   the ways to break one, by name
    prefix   before every command, so that it is bound by the rights of files
    reasons  by way to break: how often it was seen, and what was said of the last one
    """

    folder: Path
    scenes: int
    breaks: Mapping[str, Break]
    prefix: list[str]
    sources: list[Source] = field(default_factory=list)
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    _reference: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the sources, and their files in a run of their own, without any broken image."""
        root, cams, masks = (self.folder / name for name in ("sources", "own cams", "own masks"))
        self.sources = make_sources(root, self.scenes)
        for module, out in ((CAMS, cams), (CRF, masks)):
            with self.start(module, root, out, cams) as running:
                assert running.wait() == 0, running.said
        for suffix, out in ((".npz", cams), (".png", masks)):
            self._reference[suffix] = {it.name: (out / f"{it.name}{suffix}").read_bytes() for it in self.sources}

    def start(self, module: str, root: Path, out: Path, cams: Path) -> Started:
        folders = {CAMS: ["--cam_out_dir", out], RUN: ["--pseudo_mask_save_path", out]}
        folders[CRF] = [*folders[RUN], "--cam_out_dir", cams]
        argv = ["-m", module, "--img_root", root, "--device", "cpu", *folders[module]]
        return spawn(argv, self.folder / "said.txt", self.prefix)

    def run(self, count: int) -> dict[str, float | None]:
        """All commands on a list of `count` images, of which nothing may be lost; the peak memory of each in MB."""
        root = self.folder / f"{count}"
        outside = root / "outside"
        outside.mkdir(parents=True)
        (outside / "secret.txt").write_text(SECRET)
        data = make_set(root, outside, self.sources, self.breaks, count, SHARE)
        cams, masks = root / "cams", root / "masks"
        peaks = {CAMS: self.checked(CAMS, data, cams)}
        self.note_reasons(data.broken, cams)
        harm = self.put_cam_files(data, cams, outside / "code was run")
        peaks[CRF] = self.checked(CRF, data, masks)
        self.note_reasons(harm, masks)
        peaks[RUN] = self.checked(RUN, data, root / "run")
        assert not (outside / "code was run").exists()
        return peaks

    def checked(self, module: str, data: DataSet, out: Path) -> float | None:
        """Run a command on a list and look at all that it left; its peak memory."""
        before = states(data.root, out)
        with self.start(module, data.root, out, data.root / "cams") as running:
            code = running.wait()
        suffix = ".npz" if module == CAMS else ".png"
        wanted = {f"{name}{suffix}": self._reference[suffix][source.name] for name, source in data.whole.items()}
        troubles = compare_files(out, wanted) + compare_failures(out, data) + compare_output(running.said, code)
        troubles += compare_sizes(out, data) if suffix == ".png" else []
        assert troubles == [], f"{module}, {len(data.ids)} images"
        assert states(data.root, out) == before, f"{module} changed files outside its output folder"
        return running.peak_mb

    def put_cam_files(self, data: DataSet, cams: Path, mark: Path) -> dict[str, str]:
        """Harmful CAM files for the ids whose annotation is broken and whose image is whole; the way of each."""
        ways, good = list(cam_files(mark).items()), self._reference[".npz"]["scene_000"]
        ids = [image_id for image_id, kind in data.broken.items() if kind.startswith("xml_")]
        harm = {image_id: ways[number % len(ways)] for number, image_id in enumerate(ids)}
        for image_id, (_, of_good) in harm.items():
            (cams / f"{image_id}.npz").write_bytes(of_good(good))
        return {image_id: name for image_id, (name, _) in harm.items()}

    def note_reasons(self, ways: Mapping[str, str], out: Path) -> None:
        """Keep what was said of each way to break, without the names of folders."""
        for failure in read_failures(out):
            if way := ways.get(failure["id"]):
                said = failure["reason"].replace(f"{out.parent}/", "").replace(failure["id"], "ID").replace("|", "/")
                self.reasons[way] = self.reasons.get(way, (0, ""))[0] + 1, said[:160]


# --- what is looked at ----------------------------------------------------------------------------


def compare_files(out: Path, wanted: Mapping[str, bytes]) -> list[str]:
    """What is wrong with the files of a folder, besides the two that every run leaves."""
    found = {Path(path).relative_to(out).as_posix() for path in files_below(out)} - {RUN_FILE, FAILURES_FILE}
    troubles = [f"{name}: missing" for name in wanted if name not in found]
    troubles += [f"{name}: nobody asked for it" for name in sorted(found) if name not in wanted]
    other = [name for name in wanted if name in found and (out / name).read_bytes() != wanted[name]]
    return [*troubles, *(f"{name}: other bytes" for name in other)]


def compare_failures(out: Path, data: DataSet) -> list[str]:
    """What is wrong with the list of failures and the counts."""
    named, broken = [failure["id"] for failure in read_failures(out)], list(data.broken)
    troubles = [f"{image_id[:80]}: not named" for image_id in broken if image_id not in named]
    troubles += [f"{image_id}: named without reason" for image_id in named if image_id not in data.broken]
    if not troubles and named != broken:
        troubles = ["failures.jsonl: not in the order of the list, or some twice"]
    try:
        record = json.loads((out / RUN_FILE).read_bytes())
        run = record["status"], {key: record["counts"][key] for key in ("images", "made", "kept", "failed")}
    except (OSError, ValueError, KeyError) as error:
        return [*troubles, f"run.json: {error}"]
    counts = {"images": len(data.ids), "made": len(data.whole), "kept": 0, "failed": len(broken)}
    return troubles if run == ("incomplete", counts) else [*troubles, f"run.json: {run}"]


def compare_sizes(out: Path, data: DataSet) -> list[str]:
    """Masks that do not have the size of their images."""
    troubles = []
    for image_id, source in data.whole.items():
        if (out / f"{image_id}.png").is_file():
            with Image.open(out / f"{image_id}.png") as mask:
                size, mode = mask.size[::-1], mask.mode
            if (size, mode) != (source.size, "L"):
                troubles.append(f"{image_id}.png: {mode}, {size} for an image of {source.size}")
    return troubles


def compare_output(said: str, code: int | None) -> list[str]:
    """What is wrong with how a command ended and what it said."""
    troubles = [] if code == 3 else [f"exit code {code}: {said[-200:]}"]
    return troubles + [f"it said {word!r}" for word in ("Traceback", SECRET) if word in said]


def read_failures(out: Path) -> list[dict[str, str]]:
    path = out / FAILURES_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def states(root: Path, out: Path) -> dict[str, Sequence[int]]:
    """Rights, size and time of everything below a folder but for one of its folders."""
    found = {}
    for path in sorted(root.rglob("*")):
        if not path.is_relative_to(out):
            state = path.lstat()
            times = () if path.is_dir() else (state.st_size, state.st_mtime_ns)
            found[str(path)] = (state.st_mode, *times)
    return found
