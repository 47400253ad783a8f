"""The loop from image to mask without files between: what it hands to the CRF, keeps, refuses and holds in memory.

That its masks have the bytes of the staged road is in tests/scripts/test_run.py.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clip.load import Clip
from common.errors import UserError
from dataset import mask_png
from dataset.spec import Sample
from dataset.voc_layout import read_split, voc_paths, voc_samples
from pipeline.files.cam_file import load_cams, save_cams
from pipeline.methods.method import CamSettings, MapPair
from pipeline.stages import cams as stage_cams
from pipeline.stages import crf as stage_crf
from pipeline.stages import run as stage_run
from pipeline.stages.batches import Batch
from pipeline.stages.cams import CamJob, record, text_set
from pipeline.stages.crf import CrfJob
from pipeline.stages.run import RunJob, finished_ids, from_cam_file
from pipeline.steps.maps import Cams
from tests.support import photo, tree
from voc12.spec import SPEC


@pytest.fixture
def samples(world: Path) -> list[Sample]:
    paths = voc_paths(world)
    return voc_samples(paths, SPEC.classes, read_split(paths.split))[0]


@pytest.fixture
def job(tiny_clip: Clip, world: Path, tmp_path: Path) -> RunJob:
    settings, out = CamSettings(), tmp_path / "masks"
    cams = CamJob(tiny_clip, text_set(tiny_clip, SPEC), settings, out, record(tiny_clip, SPEC, settings, False))
    return RunJob(cams, CrfJob(out, world / "JPEGImages", out, None, len(SPEC.classes)))


def run(job: RunJob, samples: list[Sample], **more: Any) -> tuple[dict[str, str], np.ndarray, int]:
    totals = job.crf.empty_totals()
    found = list(stage_run.run(job, samples, finished_ids(job, samples), totals, **more))
    assert sorted(outcome.id for outcome in found) == sorted(sample.id for sample in samples)
    return {outcome.id: outcome.status + outcome.reason for outcome in found}, totals.confusions[0], totals.images


def folder(job: RunJob) -> dict[str, bytes]:
    assert job.crf.out_dir is not None
    return tree(job.crf.out_dir)


# --- maps as a CAM file gives them back -----------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_maps_are_those_of_a_cam_file(count: int, tmp_path: Path) -> None:
    """Written to a file and read back, beside the way without a file."""
    cam, attn = torch.rand((2, count, 4, 5), generator=torch.Generator().manual_seed(count))
    keys, size = np.arange(count), (37, 53)
    save_cams(tmp_path / "a.npz", Cams(keys, cam.numpy(), attn.numpy(), size), {})
    for maps, cam_type in ((cam, "highres"), (attn, "attn_highres")):
        wanted = load_cams(tmp_path / "a.npz", cam_type, 20)[1]
        found = from_cam_file(maps, size)
        assert found.dtype == wanted.dtype == np.float32 and np.array_equal(found, wanted)


def test_which_maps_are_sharpened(job: RunJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat maps of 0.25 before the affinity and 0.5 after it, as the model might give them."""
    monkeypatch.setattr(
        stage_cams, "compute_batch", with_pairs(lambda k, h, w: (level(0.25, k, h, w), level(0.5, k, h, w)))
    )
    seen = []

    def crf(image: np.ndarray, probs: np.ndarray, *_: Any) -> np.ndarray:
        seen.append(float(probs[1].max()))
        return probs

    monkeypatch.setattr(stage_crf, "dense_crf", crf)
    for cam_type in ("attn_highres", "highres"):
        run(replace(job, crf=replace(job.crf, cam_type=cam_type, overwrite=True)), samples[:1])
    assert seen == [0.5, 0.25]


def level(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, value)


def with_pairs(pair: Callable[[int, int, int], MapPair]) -> Callable[[CamJob, Batch], Batch]:
    """A model that gives every image the same maps."""

    def compute(job: CamJob, batch: Batch) -> Batch:
        batch.maps = [
            pair(len(sample.labels), *job.reader.grid(size)) for sample, size in zip(batch.samples, batch.sizes)
        ]
        return batch

    return compute


@pytest.mark.parametrize(
    ("maps", "size", "words"),
    [
        (torch.full((1, 2, 2), float("nan")), (9, 9), "not finite"),
        (torch.full((1, 2, 2), 1e6), (9, 9), "not finite"),  # beyond float16
        (torch.full((1, 2, 2), 1.1), (9, 9), "values from 1.1 to 1.1"),
        (torch.full((1, 2, 2), -0.5), (9, 9), "values from -0.5"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_no_cam_file_gives_back_is_refused(maps: torch.Tensor, size: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_cam_file(maps, size)


def test_maps_that_are_not_finite_fail_and_are_named(
    job: RunJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, quick_crf: None
) -> None:
    nan = float("nan")
    monkeypatch.setattr(
        stage_cams, "compute_batch", with_pairs(lambda k, h, w: (level(nan, k, h, w), level(nan, k, h, w)))
    )
    statuses, _, _ = run(job, samples)
    assert statuses.pop("c") == "made"  # no labels, no maps
    assert all("jpg: its maps hold values that are not finite" in status for status in statuses.values())
    assert folder(job).keys() == {"c.png"}


# --- what is there already ------------------------------------------------------------------------


def test_whole_masks_are_kept_and_damaged_ones_made_again(job: RunJob, samples: list[Sample], quick_crf: None) -> None:
    assert run(job, samples)[0] == dict.fromkeys("abcde", "made")
    before = folder(job)
    job.crf.target("b").unlink()
    job.crf.target("d").write_bytes(before["d.png"][:-30])
    written = job.crf.target("a").stat().st_mtime_ns
    assert run(job, samples)[0] == {"a": "kept", "b": "made", "c": "kept", "d": "made", "e": "kept"}
    assert folder(job) == before and job.crf.target("a").stat().st_mtime_ns == written


def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the batches that the model will get."""
    batches, compute = list[list[str]](), stage_cams.compute_batch

    def watch(job: CamJob, batch: Batch) -> Batch:
        if batch.samples:
            batches.append([sample.id for sample in batch.samples])
        return compute(job, batch)

    monkeypatch.setattr(stage_cams, "compute_batch", watch)
    return batches


def test_a_batch_with_anything_missing_is_computed_whole(
    job: RunJob, samples: list[Sample], quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the sums of a continued run would be made in another order: a, b, c and e share a patch grid."""
    job = replace(job, cams=replace(job.cams, batch_size=3))
    run(job, samples)
    job.crf.target("b").unlink()
    computed = watched(monkeypatch)
    assert run(job, samples)[0] == {**dict.fromkeys("abcde", "kept"), "b": "made"}
    assert computed == [["a", "b", "c"]]


@pytest.mark.parametrize("scored", [False, True])
def test_kept_masks_cost_nothing_unless_scored(
    job: RunJob, samples: list[Sample], world: Path, scored: bool, quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, crf=replace(job.crf, truth=world / "SegmentationClass" if scored else None))
    _, first, images = run(job, samples)
    computed = watched(monkeypatch)
    statuses, again, counted = run(job, samples)
    assert statuses == dict.fromkeys("abcde", "kept")
    assert (len(computed), images, counted) == ((5, 5, 5) if scored else (0, 0, 0))
    assert np.array_equal(first, again) and first.any() == scored


def test_scores_are_of_the_labels_before_the_255s(
    job: RunJob, samples: list[Sample], world: Path, quick_crf: None
) -> None:
    """Counted pixel by pixel on masks written without 255s."""
    truth = world / "SegmentationClass"
    _, confusion, _ = run(replace(job, crf=replace(job.crf, truth=truth, confidence=1.0)), samples)
    run(replace(job, crf=replace(job.crf, confidence=0.0, overwrite=True)), samples)
    wanted = np.zeros((21, 22), np.int64)
    for image_id in "abcde":
        true, labels = (np.array(Image.open(path / f"{image_id}.png")) for path in (truth, job.crf.target("a").parent))
        for row, column in zip(true[true != 255], labels[true != 255]):
            wanted[row, column] += 1
    assert np.array_equal(confusion, wanted)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"confidence": 0.5}', r"confidence 0\.5 \(now 0\.95\)"),
        ('{"confidence": "\\u001b[2J\\n"}', r"confidence \?\[2J \(now 0\.95\)"),
        ('{"confidence": "' + "x" * 999 + '"}', r"confidence x{77}\.\.\. \(now"),
        ("[" * 100_000, "it does not say which"),
        ("{" * 300_000, "it does not say which"),  # longer than any record: as if there were none
        ("", "it does not say which"),
        ("[3]", "it does not say which"),
        ("null", "it does not say which"),
    ],
)
def test_masks_made_otherwise_are_refused(job: RunJob, samples: list[Sample], record: str, words: str) -> None:
    mask_png.write_mask(job.crf.target("b"), np.zeros((32, 40), np.uint8), made_by=record)
    with pytest.raises(UserError, match=rf"b\.png: made with other settings: .*{words}.*; pass --overwrite") as caught:
        finished_ids(job, samples)
    assert "\n" not in str(caught.value)


def test_masks_of_other_maps_are_refused(job: RunJob, samples: list[Sample], quick_crf: None) -> None:
    run(job, samples[:1])
    other = replace(job, cams=replace(job.cams, made_by={**job.cams.made_by, "model": "another"}))
    with pytest.raises(UserError, match=r"a\.png: made with other settings: the maps \(model"):
        finished_ids(other, samples)


@pytest.mark.parametrize("labels", [(), (3,), (0, 3)])
def test_masks_of_other_labels_are_refused(
    job: RunJob, samples: list[Sample], quick_crf: None, labels: tuple[int, ...]
) -> None:
    run(job, samples[:1])
    with pytest.raises(UserError, match=r"a\.png: made with other settings: the labels; pass --overwrite"):
        finished_ids(job, [replace(samples[0], labels=labels)])
    assert finished_ids(job, samples[:1]) == {"a"}


def test_the_mask_of_a_replaced_image_is_made_again(job: RunJob, samples: list[Sample], quick_crf: None) -> None:
    run(job, samples)
    Image.new("RGB", (41, 31)).save(samples[0].image)
    assert run(job, samples)[0] == {**dict.fromkeys("abcde", "kept"), "a": "made"}
    with Image.open(job.crf.target("a")) as mask:
        assert mask.size == (41, 31)


# --- beside each other, in order, bounded ---------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (1, 3), (4, 2)])
def test_few_images_are_in_memory_however_long_the_list(
    job: RunJob, tmp_path: Path, batch_size: int, threads: int, monkeypatch: pytest.MonkeyPatch, quick_crf: None
) -> None:
    """Counted between planning and the outcome; the model is a stand-in and stays in the main thread."""
    job = replace(job, cams=replace(job.cams, batch_size=batch_size))
    Image.fromarray(photo((16, 16), 0)).save(tmp_path / "photo.png")
    many = [Sample(f"{index:02}", tmp_path / "photo.png", (0,)) for index in range(48)]
    begun, ended, under_way, models = [0], [0], [], set()
    planned, compute = stage_cams.plan, with_pairs(lambda *shape: (level(0.5, *shape), level(0.5, *shape)))

    def counted_plan(*given: Any) -> Iterator[Batch]:
        for batch in planned(*given):
            begun[0] += len(batch.samples)
            under_way.append(begun[0] - ended[0])
            yield batch

    def in_main_thread(job: CamJob, batch: Batch) -> Batch:
        models.add(threading.current_thread())
        return compute(job, batch)

    monkeypatch.setattr(stage_cams, "plan", counted_plan)
    monkeypatch.setattr(stage_cams, "compute_batch", in_main_thread)
    for outcome in stage_run.run(job, many, set(), job.crf.empty_totals(), threads):
        assert outcome.status == "made"
        ended[0] += 1
    assert ended[0] == 48 and models == {threading.main_thread()}
    assert max(under_way) <= 2 * threads + (2 * stage_run.READING + 1) * batch_size < 48


def test_an_image_that_changes_its_size_meanwhile_fails(
    job: RunJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, quick_crf: None
) -> None:
    compute = stage_cams.compute_batch

    def replaced(job: CamJob, batch: Batch) -> Batch:
        if "b" in [sample.id for sample in batch.samples]:
            Image.new("RGB", (9, 9)).save(samples[1].image)
        return compute(job, batch)

    monkeypatch.setattr(stage_cams, "compute_batch", replaced)
    statuses, _, _ = run(job, samples)
    assert "b.jpg: replaced by one of another size" in statuses.pop("b") and set(statuses.values()) == {"made"}


@pytest.mark.parametrize("limit", [300, 31 * 40])
def test_large_images_get_the_masks_of_the_two_stages(
    job: RunJob, samples: list[Sample], limit: int, quick_crf: None, tmp_path: Path
) -> None:
    """Maps through a CAM file and straight from the model, brought to the smaller size at which the CRF works."""
    direct = replace(job, crf=replace(job.crf, max_pixels=limit, confidence=0.3))
    notes = {outcome.id: outcome.note for outcome in stage_run.run(direct, samples, set(), job.crf.empty_totals())}
    assert set(notes.values()) == ({stage_crf.SHRUNK} if limit == 300 else {"", stage_crf.SHRUNK})
    cams = replace(job.cams, out_dir=tmp_path / "cams")
    assert {outcome.status for outcome in stage_cams.run(cams, samples, set())} == {"made"}
    staged = replace(direct.crf, cams=cams.out_dir, out_dir=tmp_path / "staged")
    ids = [sample.id for sample in samples]
    assert {outcome.status for outcome in stage_crf.run(staged, ids, staged.empty_totals(), 1)} == {"made"}
    assert staged.out_dir is not None and tree(staged.out_dir) == folder(direct)


def test_an_unexpected_error_costs_its_image_only(
    job: RunJob, samples: list[Sample], quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = stage_crf.read_within

    def broken(path: Path, most: int) -> Image.Image:
        if path.stem == "b":
            raise MemoryError("no room")
        return read(path, most)

    monkeypatch.setattr(stage_crf, "read_within", broken)
    statuses, _, _ = run(job, samples)
    assert statuses.pop("b") == "failedMemoryError: no room" and set(statuses.values()) == {"made"}


def test_what_is_noted_of_the_maps_is_told(
    job: RunJob, samples: list[Sample], quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = stage_cams.compute_batch

    def noted(job: CamJob, batch: Batch) -> Batch:
        batch = compute(job, batch)
        batch.notes |= {sample.id: "on the CPU" for sample in batch.samples if sample.id in "bd"}
        return batch

    monkeypatch.setattr(stage_cams, "compute_batch", noted)
    limited = replace(job, crf=replace(job.crf, max_pixels=32 * 40))  # which d alone exceeds
    found = {each.id: each.note for each in stage_run.run(limited, samples, set(), job.crf.empty_totals())}
    assert found == {"a": "", "b": "on the CPU", "c": "", "d": f"on the CPU; {stage_crf.SHRUNK}", "e": ""}
