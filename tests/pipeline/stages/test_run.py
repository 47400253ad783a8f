"""The loop from image to mask without files between: what it hands to the CRF, keeps, refuses and holds in memory.

That its masks have the bytes of the staged road is in tests/scripts/test_run.py.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from dataset import mask_png
from dataset.spec import Sample
from pipeline.stages import cams as stage_cams
from pipeline.stages import crf as stage_crf
from pipeline.stages import run as stage_run
from pipeline.stages.batches import Batch, BatchImage
from pipeline.stages.cams import CamWork
from pipeline.stages.crf import CrfJob
from tests.support import photo, replace_photo, tree
from voc12.spec import SPEC

MakeWork = Callable[..., CamWork]


@dataclass(frozen=True)
class Road:
    """Both halves of a run, one image a batch."""

    cams: CamWork
    crf: CrfJob

    def run(self, samples: list[Sample], **more: Any) -> tuple[dict[str, str], np.ndarray, int]:
        totals, finished = self.crf.empty_totals(), stage_run.finished_ids(self.cams, self.crf, samples)
        found = list(stage_run.run(self.cams, self.crf, samples, finished, totals, **more))
        return {each.id: each.status + each.reason for each in found}, totals.confusions[0], totals.images

    def notes(self, samples: list[Sample]) -> dict[str, str]:
        found = stage_run.run(self.cams, self.crf, samples, set(), self.crf.empty_totals())
        return {each.id: each.note for each in found}

    def where(self, **changes: Any) -> "Road":
        """The same with other settings of the CRF."""
        return Road(self.cams, replace(self.crf, **changes))

    @property
    def masks(self) -> dict[str, bytes]:
        assert self.crf.out_dir is not None
        return tree(self.crf.out_dir)


@pytest.fixture
def road(make_work: MakeWork, world: Path, tmp_path: Path) -> Road:
    out = tmp_path / "masks"
    return Road(make_work("masks", batch_size=1), CrfJob(out, world / "JPEGImages", out, None, len(SPEC.classes)))


# --- the maps -------------------------------------------------------------------------------------


def with_maps(monkeypatch: pytest.MonkeyPatch, cam: float, attn: float) -> None:
    """A model that gives every image flat maps of such values, before and after the affinity."""

    def with_maps(work: CamWork, image: BatchImage) -> BatchImage:
        shape = (len(image.sample.labels), *work.reader.grid(image.size))
        return replace(image, maps=tuple(np.full(shape, value, np.float32) for value in (cam, attn)))

    def compute(work: CamWork, batch: Batch) -> Batch:
        return replace(batch, images=[with_maps(work, image) for image in batch.images])

    monkeypatch.setattr(stage_cams, "compute_batch", compute)


def test_which_maps_are_sharpened(road: Road, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    with_maps(monkeypatch, 0.25, 0.5)
    seen = []

    def crf(image: np.ndarray, probs: np.ndarray, *_: Any) -> np.ndarray:
        seen.append(float(probs[1].max()))
        return probs

    monkeypatch.setattr(stage_crf, "dense_crf", crf)
    for cam_type in ("attn_highres", "highres"):
        road.where(cam_type=cam_type, overwrite=True).run(samples[:1])
    assert seen == [0.5, 0.25]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "not finite"),
        (1e6, "not finite"),  # beyond float16
        (1.1, "from 1.1 to 1.1"),
        (-0.5, "from -0.5 to -0.5"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_maps_that_no_cam_file_holds_fail_and_are_named(
    road: Road, samples: list[Sample], value: float, words: str, monkeypatch: pytest.MonkeyPatch, quick_crf: None
) -> None:
    with_maps(monkeypatch, value, value)
    statuses, _, _ = road.run(samples)
    assert statuses.pop("c") == "made"  # no labels, no maps
    assert all(f"jpg: its maps hold values {words}" in status.replace("that are ", "") for status in statuses.values())
    assert road.masks.keys() == {"c.png"}


# --- what is there already ------------------------------------------------------------------------


def test_whole_masks_are_kept_and_damaged_ones_made_again(road: Road, samples: list[Sample], quick_crf: None) -> None:
    assert road.run(samples)[0] == dict.fromkeys("abcde", "made")
    before = road.masks
    road.crf.target("b").unlink()
    road.crf.target("d").write_bytes(before["d.png"][:-30])
    written = road.crf.target("a").stat().st_mtime_ns
    assert road.run(samples)[0] == {"a": "kept", "b": "made", "c": "kept", "d": "made", "e": "kept"}
    assert road.masks == before and road.crf.target("a").stat().st_mtime_ns == written


def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the batches that the model will get."""
    batches, compute = list[list[str]](), stage_cams.compute_batch

    def watch(work: CamWork, batch: Batch) -> Batch:
        if batch.samples:
            batches.append([sample.id for sample in batch.samples])
        return compute(work, batch)

    monkeypatch.setattr(stage_cams, "compute_batch", watch)
    return batches


def test_a_batch_with_anything_missing_is_computed_whole(
    road: Road, samples: list[Sample], quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the sums of a continued run would be made in another order: a, b, c and e share a patch grid."""
    road = Road(replace(road.cams, batch_size=3), road.crf)
    road.run(samples)
    road.crf.target("b").unlink()
    computed = watched(monkeypatch)
    assert road.run(samples)[0] == {**dict.fromkeys("abcde", "kept"), "b": "made"}
    assert computed == [["a", "b", "c"]]


@pytest.mark.parametrize("scored", [False, True])
def test_kept_masks_cost_nothing(
    road: Road, samples: list[Sample], world: Path, scored: bool, quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = road.where(truth=world / "SegmentationClass" if scored else None)
    _, first, images = road.run(samples)
    computed = watched(monkeypatch)
    statuses, again, counted = road.run(samples)
    assert statuses == dict.fromkeys("abcde", "kept") and not computed
    assert images == counted == 5 * scored and np.array_equal(first, again) and first.any() == scored


def test_masks_made_without_truth_are_computed_again_to_be_scored(
    road: Road, samples: list[Sample], world: Path, quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    road.run(samples)
    computed = watched(monkeypatch)
    statuses, confusion, images = road.where(truth=world / "SegmentationClass").run(samples)
    assert statuses == dict.fromkeys("abcde", "kept") and computed and images == 5 and confusion.any()


def test_scores_are_of_the_labels_before_the_255s(
    road: Road, samples: list[Sample], world: Path, quick_crf: None
) -> None:
    """Counted pixel by pixel on masks written without 255s."""
    truth = world / "SegmentationClass"
    _, confusion, _ = road.where(truth=truth, confidence=1.0).run(samples)
    road.where(confidence=0.0, overwrite=True).run(samples)
    wanted = np.zeros((21, 22), np.int64)
    for image_id in "abcde":
        true, labels = (np.array(Image.open(path)) for path in (truth / f"{image_id}.png", road.crf.target(image_id)))
        for row, column in zip(true[true != 255], labels[true != 255]):
            wanted[row, column] += 1
    assert np.array_equal(confusion, wanted)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"confidence": 0.5}', r"confidence 0\.5 \(now 0\.95\)"),
        ('{"confidence": "\\u001b[2J\\n"}', r"confidence \?\[2J \(now 0\.95\)"),
        ('{"confidence": "' + "x" * 999 + '"}', r"confidence x{77}\.\.\. \(now"),
        ("[" * 100_000, "it does not say how it was made"),
        ("{" * 300_000, "it does not say how it was made"),  # longer than any record: as if there were none
        ("", "it does not say how it was made"),
        ("[3]", "it does not say how it was made"),
    ],
)
def test_masks_made_otherwise_are_refused(road: Road, samples: list[Sample], record: str, words: str) -> None:
    mask_png.write_mask(road.crf.target("b"), np.zeros((32, 40), np.uint8), made_by=record)
    with pytest.raises(UserError, match=rf"b\.png: .*{words}.*; pass --overwrite") as caught:
        road.run(samples)
    assert "\n" not in str(caught.value) and road.masks.keys() == {"b.png"}


def test_masks_of_other_maps_or_labels_are_refused(road: Road, samples: list[Sample], quick_crf: None) -> None:
    road.run(samples[:1])
    other = Road(replace(road.cams, made_by={**road.cams.made_by, "model": "another"}), road.crf)
    with pytest.raises(UserError, match=r"a\.png: made with other settings: the maps \(model"):
        other.run(samples)
    for labels in ((), (3,), (0, 3)):
        with pytest.raises(UserError, match=r"a\.png: made with other settings: the labels; pass --overwrite"):
            road.run([replace(samples[0], labels=labels)])
    assert road.run(samples[:1])[0] == {"a": "kept"}


def test_the_mask_of_a_replaced_image_is_made_again(road: Road, samples: list[Sample], quick_crf: None) -> None:
    """Of another size, and of the same size and modification time."""
    road.run(samples)
    Image.new("RGB", (41, 31)).save(samples[0].image)
    replace_photo(samples[1].image)
    assert road.run(samples)[0] == {**dict.fromkeys("abcde", "kept"), "a": "made", "b": "made"}
    with Image.open(road.crf.target("a")) as mask:
        assert mask.size == (41, 31)


# --- beside each other, in order, bounded ---------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 3), (4, 2)])
def test_few_images_are_in_memory_however_long_the_list(
    road: Road, tmp_path: Path, batch_size: int, threads: int, monkeypatch: pytest.MonkeyPatch, quick_crf: None
) -> None:
    """Counted between planning and the outcome; the model is a stand-in and stays in the main thread."""
    road = Road(replace(road.cams, batch_size=batch_size), road.crf)
    Image.fromarray(photo((16, 16), 0)).save(tmp_path / "photo.png")
    many = [Sample(f"{index:02}", tmp_path / "photo.png", (0,)) for index in range(48)]
    begun, ended, under_way, models = [0], [0], [], set()
    with_maps(monkeypatch, 0.5, 0.5)
    planned, compute = stage_run.plan, stage_cams.compute_batch

    def counted_plan(*given: Any) -> Iterator[Batch]:
        for batch in planned(*given):
            begun[0] += len(batch.samples)
            under_way.append(begun[0] - ended[0])
            yield batch

    def in_main_thread(work: CamWork, batch: Batch) -> Batch:
        models.add(threading.current_thread())
        return compute(work, batch)

    monkeypatch.setattr(stage_run, "plan", counted_plan)
    monkeypatch.setattr(stage_cams, "compute_batch", in_main_thread)
    for outcome in stage_run.run(road.cams, road.crf, many, set(), road.crf.empty_totals(), threads):
        assert outcome.status == "made"
        ended[0] += 1
    assert ended[0] == 48 and models == {threading.main_thread()}
    assert max(under_way) <= 2 * threads + (2 * stage_run.READING + 1) * batch_size < 48


def test_an_image_that_is_exchanged_meanwhile_fails(
    road: Road, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, quick_crf: None
) -> None:
    """By one of another size, and by one that only its content tells from the first."""
    compute = stage_cams.compute_batch

    def exchange(work: CamWork, batch: Batch) -> Batch:
        for sample in batch.samples:
            if sample.id == "b":
                Image.new("RGB", (9, 9)).save(sample.image)
            if sample.id == "d":
                replace_photo(sample.image)
        return compute(work, batch)

    monkeypatch.setattr(stage_cams, "compute_batch", exchange)
    statuses, _, _ = road.run(samples)
    assert "b.jpg: of size (9, 9), and its maps were made for (32, 40)" in statuses.pop("b")
    assert "d.jpg: another photo than its maps were made of" in statuses.pop("d")
    assert set(statuses.values()) == {"made"} and road.masks.keys() == {"a.png", "c.png", "e.png"}
    monkeypatch.setattr(stage_cams, "compute_batch", compute)
    assert road.run(samples)[0] == {**dict.fromkeys("ace", "kept"), "b": "made", "d": "made"}


def test_every_shard_makes_its_part(road: Road, samples: list[Sample], quick_crf: None) -> None:
    first, second = (road.run(samples, shard=(index, 2))[0] for index in range(2))
    assert first.keys() | second.keys() == set("abcde") and not first.keys() & second.keys()
    assert road.run(samples)[0] == dict.fromkeys("abcde", "kept")


def test_who_looks_on_sees_every_image_before_its_mask(road: Road, samples: list[Sample], quick_crf: None) -> None:
    seen: list[str] = []

    def show(mapped: BatchImage, result: stage_crf.CrfResult) -> None:
        assert mapped.sample.id == result.input.id and not road.crf.target(result.input.id).exists()
        assert result.labels.shape == result.input.size == mapped.size
        seen.append(result.input.id)
        if result.input.id == "b":
            raise UserError("b: cannot be shown")

    statuses, _, _ = road.run(samples, show=show)
    assert sorted(seen) == list("abcde") and statuses.pop("b") == "failedb: cannot be shown"
    assert set(statuses.values()) == {"made"} and "b.png" not in road.masks


@pytest.mark.parametrize("limit", [300, 31 * 40])
def test_large_images_get_the_masks_of_the_two_stages(
    road: Road, make_work: MakeWork, samples: list[Sample], limit: int, quick_crf: None, tmp_path: Path
) -> None:
    """Maps through a CAM file and straight from the model, brought to the smaller size at which the CRF works."""
    direct = road.where(max_pixels=limit, confidence=0.3)
    assert set(direct.notes(samples).values()) == ({stage_crf.SHRUNK} if limit == 300 else {"", stage_crf.SHRUNK})
    cams = make_work("cams", batch_size=1)
    assert {outcome.status for outcome in stage_cams.run(cams, samples, set())} == {"made"}
    staged = replace(direct.crf, cams=cams.job.out_dir, out_dir=tmp_path / "staged")
    ids = [sample.id for sample in samples]
    assert {outcome.status for outcome in stage_crf.run(staged, ids, staged.empty_totals(), 1)} == {"made"}
    assert tree(tmp_path / "staged") == direct.masks


def test_what_is_noted_of_the_maps_is_told(
    road: Road, samples: list[Sample], quick_crf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = stage_cams.compute_batch

    def noted(work: CamWork, batch: Batch) -> Batch:
        batch = compute(work, batch)
        images = [replace(image, note="on the CPU" if image.sample.id in "bd" else "") for image in batch.images]
        return replace(batch, images=images)

    monkeypatch.setattr(stage_cams, "compute_batch", noted)
    found = road.where(max_pixels=32 * 40).notes(samples)  # which d alone exceeds
    assert found == {"a": "", "b": "on the CPU", "c": "", "d": f"on the CPU; {stage_crf.SHRUNK}", "e": ""}
