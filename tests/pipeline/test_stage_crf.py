"""The loop of the CRF stage around a stand-in for the CRF itself, whose own tests are in test_crf.py."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from pipeline import stage_crf
from pipeline.maps import Cams
from pipeline.masks import mask_made_by
from pipeline.stage_crf import CrfJob
from pipeline.storage import read_made_by, read_origin, save_cams
from tests.support import tree

IDS = ["a", "b", "c", "d", "e"]
KEYS = {"a": [0], "b": [14, 0, 11], "c": [], "d": [7], "e": [17, 14]}
SIZES = {"a": (31, 40), "b": (32, 40), "c": (30, 37), "d": (48, 32), "e": (29, 33)}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple]]:
    """Replaces the CRF by a normalisation of its input and keeps what it was given."""
    calls: list[tuple] = []

    def stand_in(image: np.ndarray, probs: np.ndarray, settings: Any, backend: str) -> np.ndarray:
        calls.append((image, probs, settings, backend))
        return probs / probs.sum(axis=0)

    monkeypatch.setattr(stage_crf, "dense_crf", stand_in)
    yield calls


def maps_of(image_id: str) -> np.ndarray:
    """(k, H, W): vertical bands, one a class, with the right half of each only half sure."""
    height, width = SIZES[image_id]
    maps = np.zeros((len(KEYS[image_id]), height, width), np.float16)
    for index, one in enumerate(maps):
        start = 5 + 10 * index
        one[:, start : start + 4], one[:, start + 4 : start + 8] = 1, 0.75
    return maps


@pytest.fixture
def job(world: Path, tmp_path: Path) -> CrfJob:
    for image_id in IDS:
        maps = maps_of(image_id)
        np.savez_compressed(_made(tmp_path / "cams") / f"{image_id}.npz", keys=np.array(KEYS[image_id], np.int64),
                            highres=maps[:, ::-1], attn_highres=maps)  # fmt: skip
    return CrfJob(tmp_path / "cams", world / "JPEGImages", tmp_path / "masks", None, 20)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def run(job: CrfJob, ids: list[str] = IDS, threads: int = 2) -> tuple[dict[str, str], np.ndarray, int]:
    totals = job.empty_totals()
    found = list(stage_crf.run(job, ids, totals, threads))
    assert [outcome.id for outcome in found] == ids
    return {outcome.id: outcome.status + outcome.reason for outcome in found}, totals.confusions[0], totals.images


def read(job: CrfJob, image_id: str) -> np.ndarray:
    assert job.out_dir is not None
    with Image.open(job.out_dir / f"{image_id}.png") as image:
        return np.array(image)


def test_masks_hold_class_plus_one_and_255_where_unsure(job: CrfJob, seen: list) -> None:
    assert run(job)[0] == dict.fromkeys(IDS, "made")
    for image_id in IDS:
        wanted = np.zeros(SIZES[image_id], np.uint8)
        for index, key in enumerate(KEYS[image_id]):
            start = 5 + 10 * index
            wanted[:, start : start + 4], wanted[:, start + 4 : start + 8] = key + 1, 255
        assert np.array_equal(read(job, image_id), wanted), image_id
    assert not read(job, "c").any()  # no labels: all background


def test_the_crf_gets_the_image_and_background_first(job: CrfJob, seen: list, world: Path) -> None:
    run(job, ["b"], threads=1)
    ((image, probs, settings, backend),) = seen
    assert np.array_equal(image, Image.open(world / "JPEGImages" / "b.jpg"))
    maps = maps_of("b").astype(np.float32)
    assert np.allclose(probs, [1 - maps.max(axis=0), *maps])
    assert (settings.iterations, settings.bilateral_sxy, settings.bilateral_srgb, backend) == (10, 67, 3, "numba")


def test_unrefined_maps_when_asked_for(job: CrfJob, seen: list) -> None:
    run(replace(job, cam_type="highres"), ["a"])
    assert np.allclose(seen[0][1][1], maps_of("a")[0, ::-1])


def test_reference_image_is_mean_subtracted_wrapped_bgr(job: CrfJob, seen: list, world: Path) -> None:
    """Pixel by pixel in plain Python: BGR minus the mean, towards zero, modulo 256."""
    run(replace(job, crf_image="reference"), ["e"])
    rgb = np.asarray(Image.open(world / "JPEGImages" / "e.jpg")).tolist()
    mean = (104.008, 116.669, 122.675)
    for y in range(0, 29, 4):
        for x in range(0, 33, 3):
            wanted = [int(value - shift) % 256 for value, shift in zip(reversed(rgb[y][x]), mean)]
            assert seen[0][0][y, x].tolist() == wanted


def test_scores_are_of_the_labels_before_the_255s(job: CrfJob, seen: list, world: Path) -> None:
    truth = world / "SegmentationClass"
    _, confusion, images = run(replace(job, truth=truth, out_dir=None))
    wanted = np.zeros((21, 22), np.int64)
    for image_id in IDS:
        maps = maps_of(image_id)
        keys = [0, *(key + 1 for key in KEYS[image_id])]
        labels = np.array(keys)[np.concatenate([[1 - maps.max(axis=0, initial=0)], maps]).argmax(axis=0)]
        for true, predicted in zip(np.array(Image.open(truth / f"{image_id}.png")).flat, labels.flat):
            if true != 255:
                wanted[true, predicted] += 1
    assert images == 5 and np.array_equal(confusion, wanted)
    assert job.out_dir is not None and not job.out_dir.exists()


def test_finished_masks_are_kept_and_still_scored(job: CrfJob, seen: list, world: Path) -> None:
    job = replace(job, truth=world / "SegmentationClass")
    _, first, _ = run(job)
    assert job.out_dir is not None
    whole = tree(job.out_dir)
    (job.out_dir / "b.png").unlink()
    (job.out_dir / "d.png").write_bytes(whole["d.png"][:60])
    times = (job.out_dir / "a.png").stat().st_mtime_ns
    statuses, again, images = run(job)
    assert statuses == {"a": "kept", "b": "made", "c": "kept", "d": "made", "e": "kept"}
    assert tree(job.out_dir) == whole and (job.out_dir / "a.png").stat().st_mtime_ns == times
    assert images == 5 and np.array_equal(first, again)


def test_kept_masks_cost_no_crf_when_nothing_is_scored(job: CrfJob, seen: list) -> None:
    run(job)
    seen.clear()
    assert run(job)[0] == dict.fromkeys(IDS, "kept") and seen == []


@pytest.mark.parametrize(
    "change", [{"confidence": 0.5}, {"palette": True}, {"cam_type": "highres"}, {"crf_image": "reference"}]
)
def test_masks_of_other_settings_are_refused_until_overwritten(job: CrfJob, seen: list, change: dict) -> None:
    run(job)
    assert job.out_dir is not None
    before, other = tree(job.out_dir), replace(job, **change)
    with pytest.raises(UserError, match="made with other settings; pass --overwrite"):
        run(other)
    assert tree(job.out_dir) == before
    assert run(replace(other, overwrite=True))[0] == dict.fromkeys(IDS, "made")
    assert tree(job.out_dir) != before and run(other)[0] == dict.fromkeys(IDS, "kept")


def test_masks_of_other_cams_are_not_kept(job: CrfJob, seen: list) -> None:
    run(job)
    maps = np.ones((1, 2, 2), np.float32)
    save_cams(job.cams / "a.npz", Cams(np.array([0]), maps, maps, SIZES["a"]), {"box_threshold": 0.7})
    with pytest.raises(UserError, match=r"a\.png: made with other settings"):
        run(job)


def test_masks_of_other_labels_are_not_kept(job: CrfJob, seen: list) -> None:
    run(job)
    maps, made_by = np.ones((1, 2, 2), np.float32), read_made_by(job.cams / "a.npz")
    save_cams(job.cams / "a.npz", Cams(np.array([3]), maps, maps, SIZES["a"]), made_by)
    with pytest.raises(UserError, match=r"a\.png: made with other settings"):
        run(job)


def test_the_mask_of_a_replaced_photo_is_made_again(job: CrfJob, seen: list) -> None:
    run(job)
    (record, keys), (height, width) = read_origin(job.cams / "a.npz"), SIZES["a"]
    maps = np.ones((len(keys), 2, 2), np.float32)
    Image.new("RGB", (width + 1, height)).save(job.images / "a.jpg")
    save_cams(job.cams / "a.npz", Cams(np.array(keys), maps, maps, (height, width + 1)), record)
    assert run(job)[0] == {**dict.fromkeys(IDS, "kept"), "a": "made"}
    assert read(job, "a").shape == (height, width + 1)


def test_record_tells_how_a_mask_was_made(job: CrfJob, seen: list) -> None:
    run(job, ["a"])
    assert job.out_dir is not None
    made_by = mask_made_by(job.out_dir / "a.png")
    assert all(word in made_by for word in ('"confidence": 0.95', '"crf_image": "rgb"', '"bilateral_sxy": 67'))


@pytest.mark.parametrize(
    "trouble", ["no cams", "damaged cams", "no image", "other size", "no truth", "truth of other size"]
)
def test_what_fails_is_named_and_the_rest_is_made(job: CrfJob, seen: list, world: Path, trouble: str) -> None:
    truth = world / "SegmentationClass" / "b.png"
    if trouble == "no cams":
        (job.cams / "b.npz").unlink()
    elif trouble == "damaged cams":
        (job.cams / "b.npz").write_bytes(b"PK")
    elif trouble == "no image":
        (job.images / "b.jpg").unlink()
    elif trouble == "other size":
        Image.new("RGB", (9, 9)).save(job.images / "b.jpg")
    elif trouble == "no truth":
        truth.unlink()
    else:
        Image.new("L", (9, 9)).save(truth)
    statuses, _, images = run(replace(job, truth=truth.parent))
    assert statuses.pop("b").startswith("failed") and set(statuses.values()) == {"made"} and images == 4
    assert job.out_dir is not None
    assert (job.out_dir / "b.png").exists() == ("truth" in trouble)  # masks do not wait for the ground truth


def test_groups_on_a_device_give_the_masks_of_one_image_at_a_time(
    job: CrfJob, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of two, one of them with an image that fails; the CRF is the real one of both backends."""
    monkeypatch.setattr(stage_crf, "GROUP", 2)
    (job.cams / "c.npz").unlink()
    truth = world / "SegmentationClass"
    alone = replace(job, truth=truth, confidence=0.6)
    grouped = replace(alone, out_dir=job.cams.parent / "grouped", backend="torch", device="cpu")
    one, other = run(alone), run(grouped)
    assert one[0] == other[0] and [status[:6] for status in one[0].values()].count("failed") == 1
    assert np.array_equal(one[1], other[1]) and one[2] == other[2] == 4
    assert alone.out_dir is not None and grouped.out_dir is not None
    assert tree(alone.out_dir) == tree(grouped.out_dir) and len(tree(alone.out_dir)) == 4
