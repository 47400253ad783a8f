"""What a worker does with a unit, on addresses: the stages with `--engine ray`, but the worker in this process.

tests/engine/test_ray_cluster.py has the cluster. The store is `memory://`, which one process alone sees.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec", reason="needs requirements-ray.txt")

import fsspec

from cli import engines
from common.errors import StopRun, UserError
from engine import ray_stage, unit_files
from engine.ray_cluster import Actor, Pool, Unit
from engine.remote import fetch
from tests.support import Desk, Ended, photo, tree

ROOT = "memory://bucket"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_crf")]


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of two images, through a worker that is no other process."""

    def results(
        pool: Pool, set_up: Callable[[Any], Any], plan: Any, units: Sequence[Unit], smaller: object
    ) -> Iterator[Any]:
        worker = Actor(set_up, plan, str(Path.cwd()))
        for unit in units:
            ((unit_id, result),) = worker({"unit": [unit]})["result"]
            if isinstance(result, (UserError, StopRun)):
                raise result
            assert unit_id == unit.id
            yield result

    monkeypatch.setattr(ray_stage, "cluster", lambda options: nullcontext())
    monkeypatch.setattr(ray_stage, "pool_for", lambda *given: Pool(1, 1, 0))
    monkeypatch.setattr(ray_stage, "results", results)
    monkeypatch.setattr(ray_stage, "unit_size", lambda *given: 2)
    monkeypatch.setattr(engines, "find_spec", lambda name: True)


@pytest.fixture
def store(desk: Desk) -> Iterator[Any]:
    """A store with the desk's data set, its split and its model."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    for name, content in tree(desk.root).items():
        files.pipe_file(f"/bucket/{name}", content)
    files.pipe_file("/bucket/tiny.pt", desk.weights.read_bytes())
    yield files
    files.store.clear()


def remote(desk: Desk, name: str, *more: object) -> Ended:
    """A stage with addresses for every path."""
    options: list[object] = ["--dataset", "voc12", "--img_root", f"{ROOT}/VOC2012", "--cam_out_dir", f"{ROOT}/cams"]
    if name == "generate_cams":
        options += ["--model", f"{ROOT}/tiny.pt"]
    else:
        options += ["--pseudo_mask_save_path", f"{ROOT}/masks"]
    return desk.command(name, *options, "--engine", "ray", *more)


def stored(files: Any, folder: str) -> dict[str, bytes]:
    """The results below an address, without run.json."""
    found = {name.removeprefix(f"/bucket/{folder}/"): files.cat_file(name) for name in files.find(f"/bucket/{folder}")}
    return {name: content for name, content in found.items() if name != "run.json"}


def results(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if name != "run.json"}


def counts(files: Any, folder: str) -> dict[str, Any]:
    return json.loads(files.cat_file(f"/bucket/{folder}/run.json"))["counts"]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images that are fetched."""
    seen: list[str] = []

    def watched(addresses: Any, here: Any) -> dict[str, str]:
        asked = list(addresses)
        seen.extend(address.rpartition("/")[2] for address in asked if address.endswith(".jpg"))
        return fetch(asked, here)

    monkeypatch.setattr(unit_files, "fetch", watched)
    return seen


# --- the same bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), ("--batch_size", 2)])
def test_both_stages_make_the_bytes_of_one_machine(desk: Desk, store: Any, batch: tuple[object, ...]) -> None:
    scored = ("--gt_root", desk.data / "SegmentationClass", "--json", desk.root / "one.json")
    desk.run("generate_cams", *batch)
    desk.run("eval_cam_with_crf", *scored)
    ended = remote(desk, "generate_cams", *batch)
    assert ended.code == 0 and f"3 CAM files written in {ROOT}/cams" in ended.out
    assert f"--cam_out_dir {ROOT}/cams" in ended.out  # of the command to go on with
    truth = f"{ROOT}/VOC2012/SegmentationClass"
    ended = remote(desk, "eval_cam_with_crf", "--gt_root", truth, "--json", desk.root / "ray.json")
    assert ended.code == 0 and f"3 masks written in {ROOT}/masks" in ended.out
    assert stored(store, "cams") == results(desk.cams) and len(results(desk.cams)) == 3
    assert stored(store, "masks") == results(desk.masks) and len(results(desk.masks)) == 3
    one, ray = (json.loads((desk.root / f"{name}.json").read_text()) for name in ("one", "ray"))
    assert (ray["miou"], ray["classes"], ray["images"]) == (one["miou"], one["classes"], 3)


def test_paths_that_all_machines_share_need_no_address(desk: Desk) -> None:
    desk.run("generate_cams")
    shared = desk.root / "shared"
    assert desk.run("generate_cams", "--cam_out_dir", shared, "--engine", "ray").code == 0
    assert results(shared) == results(desk.cams)
    masks = desk.root / "shared_masks"
    desk.run("eval_cam_with_crf")
    assert desk.run("eval_cam_with_crf", "--pseudo_mask_save_path", masks, "--engine", "ray").code == 0
    assert results(masks) == results(desk.masks)


def test_scores_alone_write_nothing(desk: Desk, store: Any) -> None:
    remote(desk, "generate_cams")
    before = set(store.find("/bucket"))
    ended = remote(desk, "eval_cam_with_crf", "--eval_only")
    assert ended.code == 0 and "mIoU" in ended.out and set(store.find("/bucket")) == before


# --- what is there already ------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "suffix"), [("generate_cams", "npz"), ("eval_cam_with_crf", "png")])
def test_a_second_run_makes_what_is_missing_or_damaged_and_nothing_else(
    desk: Desk, store: Any, fetched: list[str], stage: str, suffix: str
) -> None:
    """Each image is fetched once: to see whether it is the one that its result was made of, or to work on it."""
    remote(desk, "generate_cams")
    remote(desk, stage)
    folder = "cams" if suffix == "npz" else "masks"
    before = stored(store, folder)
    store.rm_file(f"/bucket/{folder}/a.{suffix}")
    store.pipe_file(f"/bucket/{folder}/b.{suffix}", b"no file of ours")
    fetched.clear()
    assert remote(desk, stage).code == 0
    assert (counts(store, folder)["made"], counts(store, folder)["kept"]) == (2, 1)
    assert sorted(fetched) == ["a.jpg", "b.jpg", "c.jpg"] and stored(store, folder) == before


@pytest.mark.parametrize("stage", ["generate_cams", "eval_cam_with_crf"])
def test_an_image_that_was_replaced_is_worked_on_again(desk: Desk, store: Any, stage: str) -> None:
    """Also by one of the same size: the identity of an image is that of its content."""
    remote(desk, "generate_cams")
    remote(desk, "eval_cam_with_crf")
    from PIL import Image

    size = Image.open(desk.image("a")).size
    Image.fromarray(photo((size[1], size[0]), 9)).save(desk.image("a"), quality=95)
    store.pipe_file("/bucket/VOC2012/JPEGImages/a.jpg", desk.image("a").read_bytes())
    assert remote(desk, "generate_cams").code == 0 and counts(store, "cams")["made"] == 1
    desk.run("generate_cams")
    assert stored(store, "cams") == results(desk.cams)
    if stage == "eval_cam_with_crf":
        assert remote(desk, stage).code == 0 and counts(store, "masks")["made"] == 1
        desk.run(stage)
        assert stored(store, "masks") == results(desk.masks)


def test_a_batch_with_anything_missing_is_computed_whole(desk: Desk, store: Any) -> None:
    store.pipe_file("/bucket/VOC2012/JPEGImages/a.jpg", desk.image("b").read_bytes())
    remote(desk, "generate_cams", "--batch_size", 2)
    before = stored(store, "cams")
    store.rm_file("/bucket/cams/b.npz")
    assert remote(desk, "generate_cams", "--batch_size", 2).code == 0
    assert stored(store, "cams") == before and counts(store, "cams")["made"] == 1


def test_finished_images_are_scored_again(desk: Desk, store: Any) -> None:
    remote(desk, "generate_cams")
    scored = ("--gt_root", f"{ROOT}/VOC2012/SegmentationClass", "--json", desk.root / "ray.json")
    remote(desk, "eval_cam_with_crf", *scored)
    first = json.loads((desk.root / "ray.json").read_text())
    assert remote(desk, "eval_cam_with_crf", *scored).code == 0 and counts(store, "masks")["kept"] == 3
    second = json.loads((desk.root / "ray.json").read_text())
    assert second["images"] == 3 and second["miou"] == first["miou"]


@pytest.mark.parametrize(
    ("stage", "folder", "change"),
    [
        ("generate_cams", "cams", ("--box_threshold", 0.7)),
        ("eval_cam_with_crf", "masks", ("--confidence", 0.5)),
    ],
)
def test_changed_settings_are_refused_and_redone_with_overwrite(
    desk: Desk, store: Any, stage: str, folder: str, change: tuple[object, ...]
) -> None:
    remote(desk, "generate_cams")
    remote(desk, stage)
    before = stored(store, folder)
    for run_file in (True, False):  # told by run.json, and by the files alone
        if not run_file:
            store.rm_file(f"/bucket/{folder}/run.json")
        ended = remote(desk, stage, *change)
        assert ended.code == 2 and f"{ROOT}/{folder}/" in ended.err and "--overwrite" in ended.err
        assert stored(store, folder) == before and len(ended.err.splitlines()) == 1
    assert remote(desk, stage, *change, "--overwrite").code == 0
    desk.run("generate_cams", *(change if folder == "cams" else ()))
    if folder == "masks":
        desk.run("eval_cam_with_crf", *change)
    assert stored(store, folder) == results(getattr(desk, folder)) != before


# --- what goes wrong ------------------------------------------------------------------------------


def test_bad_images_cost_themselves_and_are_told_by_address(desk: Desk, store: Any) -> None:
    store.pipe_file("/bucket/VOC2012/JPEGImages/b.jpg", b"no picture")
    ended = remote(desk, "generate_cams")
    assert ended.code == 3 and set(stored(store, "cams")) == {"a.npz", "c.npz", "failures.jsonl"}
    failure = json.loads(store.cat_file("/bucket/cams/failures.jsonl"))
    assert failure["id"] == "b" and failure["reason"].startswith(f"{ROOT}/VOC2012/JPEGImages/b.jpg: not a readable")
    ended = remote(desk, "eval_cam_with_crf")
    assert ended.code == 3 and f"{ROOT}/cams/b.npz: no such CAM file" in ended.err
    assert set(stored(store, "masks")) == {"a.png", "c.png", "failures.jsonl"}


def test_results_that_cannot_be_put_are_failures(desk: Desk, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(addresses: Sequence[str], here: object) -> None:
        if addresses:
            raise UserError(f"{addresses[0]}: cannot be written (quota)")

    monkeypatch.setattr(unit_files, "put", refused)
    ended = remote(desk, "generate_cams")
    assert ended.code == 3 and f"a: {ROOT}/cams/a.npz: cannot be written (quota)" in ended.err
    assert counts(store, "cams")["failed"] == 3


def test_a_surprise_in_a_unit_costs_its_images_only(desk: Desk, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stages import cams as stage_cams

    finished = stage_cams.finished_ids

    def surprised(job: Any, samples: Any) -> set[str]:
        if any(sample.id == "c" for sample in samples):
            raise MemoryError("of\nthe machine")
        return finished(job, samples)

    monkeypatch.setattr(stage_cams, "finished_ids", surprised)
    ended = remote(desk, "generate_cams")
    assert ended.code == 3 and "c: c: MemoryError: of the machine" in ended.err
    assert set(stored(store, "cams")) == {"a.npz", "b.npz", "failures.jsonl"}


@pytest.mark.parametrize(("stage", "suffix"), [("generate_cams", "npz"), ("eval_cam_with_crf", "png")])
def test_units_that_are_only_looked_at(
    desk: Desk, store: Any, monkeypatch: pytest.MonkeyPatch, stage: str, suffix: str
) -> None:
    """As those are that cost every worker its life: what is finished counts, the rest has failed."""
    remote(desk, "generate_cams")
    remote(desk, stage)
    folder = "cams" if suffix == "npz" else "masks"
    store.rm_file(f"/bucket/{folder}/b.{suffix}")
    through = ray_stage.results

    def looking(pool: Pool, set_up: Any, plan: Any, units: Sequence[Unit], smaller: Any) -> Iterator[Any]:
        return through(pool, set_up, plan, [replace(unit, only_look=True) for unit in units], smaller)

    monkeypatch.setattr(ray_stage, "results", looking)
    ended = remote(desk, stage)
    assert ended.code == 3 and "b: its worker process ended unexpectedly" in ended.err
    assert (counts(store, folder)["kept"], counts(store, folder)["failed"]) == (2, 1)


def test_a_machine_with_other_weights_is_refused(desk: Desk, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ray_stage.cam_worker
    changed = lambda plan: worker(replace(plan, made_by={**plan.made_by, "model": "ff"}))  # noqa: E731
    monkeypatch.setattr(ray_stage, "cam_worker", changed)
    ended = remote(desk, "generate_cams")
    assert ended.code == 2 and "model: not the same on all machines" in ended.err and stored(store, "cams") == {}


def test_a_machine_that_sees_another_folder_is_refused(desk: Desk, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.remote.is_visible", lambda mark: False)
    ended = remote(desk, "generate_cams")
    assert ended.code == 2 and f"{ROOT}/cams: machine " in ended.err and stored(store, "cams") == {}
