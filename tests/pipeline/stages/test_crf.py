"""The loop of the CRF stage around a stand-in for the CRF itself, whose own tests are in tests/pipeline/crf."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import StopRun, UserError
from common.provenance import source_of
from common.version import VERSION
from dataset.mask_png import mask_confidence, mask_made_by, write_mask
from pipeline.crf.dense_crf import reference_image
from pipeline.files.cam_file import save_cams
from pipeline.stages import crf as stage_crf
from pipeline.stages.crf import CrfJob
from pipeline.steps.maps import Cams
from tests.support import bilinear, photo, replace_photo, tree

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
    """CAM files as the reference wrote them: at full size, without record."""
    for image_id in IDS:
        maps = maps_of(image_id)
        np.savez_compressed(_made(tmp_path / "cams") / f"{image_id}.npz", keys=np.array(KEYS[image_id], np.int64),
                            highres=maps[:, ::-1], attn_highres=maps)  # fmt: skip
    return CrfJob(tmp_path / "cams", world / "JPEGImages", tmp_path / "masks", None, 20)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def save(job: CrfJob, image_id: str, size: tuple[int, int] | None = None, **record: Any) -> None:
    """A CAM file of flat maps with such a record, made of the photo that is there now."""
    maps, source = np.ones((len(KEYS[image_id]), 2, 2), np.float32), source_of(job.images / f"{image_id}.jpg")
    cams = Cams(np.array(KEYS[image_id], np.int64), maps, maps, size or SIZES[image_id])
    save_cams(job.cam_file(image_id), cams, {"source": source, **record})


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
        confidence = mask_confidence(job.target(image_id))  # half of each class is sure, the other half three quarters
        assert confidence == {0: 1.0, **{key + 1: 0.875 for key in KEYS[image_id]}}
    assert not read(job, "c").any()  # no labels: all background


def test_the_crf_gets_the_image_and_background_first(job: CrfJob, seen: list, world: Path) -> None:
    run(job, ["b"], threads=1)
    ((image, probs, settings, backend),) = seen
    assert np.array_equal(image, Image.open(world / "JPEGImages" / "b.jpg"))
    maps = maps_of("b").astype(np.float32)
    assert np.allclose(probs, [1 - maps.max(axis=0), *maps])
    assert (settings.iterations, settings.bilateral_sxy, settings.bilateral_srgb, backend) == (10, 67, 3, "numba")
    run(replace(job, cam_type="highres", out_dir=None), ["a"])
    assert np.allclose(seen[1][1][1], maps_of("a")[0, ::-1])


def test_the_reference_image_when_asked_for(job: CrfJob, seen: list, world: Path) -> None:
    run(replace(job, crf_image="reference"), ["e"])
    rgb = np.asarray(Image.open(world / "JPEGImages" / "e.jpg"))
    assert np.array_equal(seen[0][0], reference_image(rgb)) and not np.array_equal(seen[0][0], rgb)


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


@pytest.mark.parametrize("scored", [False, True])
def test_kept_masks_cost_no_crf(job: CrfJob, seen: list, world: Path, scored: bool) -> None:
    job = replace(job, truth=world / "SegmentationClass" if scored else None)
    first = run(job)
    seen.clear()
    statuses, confusion, images = run(job)
    assert statuses == dict.fromkeys(IDS, "kept") and seen == []
    assert images == first[2] == 5 * scored and np.array_equal(confusion, first[1]) and confusion.any() == scored


def test_a_kept_mask_is_scored_against_the_truth_that_is_there_now(job: CrfJob, seen: list, world: Path) -> None:
    job = replace(job, truth=_made(world / "SegmentationClass"))
    run(job, ["b"])
    Image.fromarray(np.full(SIZES["b"], 7, np.uint8)).save(world / "SegmentationClass/b.png")
    seen.clear()
    statuses, confusion, _ = run(job, ["b"])
    assert statuses == {"b": "kept"} and len(seen) == 1
    assert confusion[7].sum() == confusion.sum() == np.prod(SIZES["b"])


@pytest.mark.parametrize(
    "score",
    [
        "",
        "{",
        '{"labels": 21}',
        '{"labels": 21, "truth": "TRUTH", "counts": {"3": -4}}',
        '{"labels": 21, "truth": "TRUTH", "counts": {"9999": 1}}',
        '{"labels": 5, "truth": "TRUTH", "counts": {}}',
    ],
)
def test_a_mask_without_a_score_that_can_be_right_gets_the_crf(
    job: CrfJob, seen: list, world: Path, score: str
) -> None:
    job = replace(job, truth=world / "SegmentationClass")
    _, confusion, _ = run(job, ["d"])
    kept, truth = job.target("d"), source_of(world / "SegmentationClass/d.png")
    write_mask(kept, read(job, "d"), made_by=mask_made_by(kept), score=score.replace("TRUTH", truth))
    seen.clear()
    statuses, again, _ = run(job, ["d"])
    assert statuses == {"d": "kept"} and len(seen) == 1 and np.array_equal(confusion, again)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"confidence": 0.5}, r"confidence 0\.95 \(now 0\.5\)"),
        ({"palette": True}, "palette False"),
        ({"cam_type": "highres"}, "cam_type attn_highres"),
        ({"crf_image": "reference"}, "crf_image rgb"),
        (
            {"max_pixels": 2_000_000},
            "max_pixels 3000000",
        ),  # one rule for the folder, whatever is in it
    ],
)
def test_masks_of_other_settings_are_refused_until_overwritten(
    job: CrfJob, seen: list, change: dict, shown: str
) -> None:
    run(job)
    assert job.out_dir is not None
    before, other = tree(job.out_dir), replace(job, **change)
    with pytest.raises(UserError, match=rf"a\.png: made with other settings: {shown}.*; pass --overwrite"):
        run(other)
    assert tree(job.out_dir) == before
    assert run(replace(other, overwrite=True))[0] == dict.fromkeys(IDS, "made")
    assert tree(job.out_dir) != before and run(other)[0] == dict.fromkeys(IDS, "kept")


def test_masks_of_other_maps_or_labels_are_not_kept(job: CrfJob, seen: list, monkeypatch: pytest.MonkeyPatch) -> None:
    run(job, ["a"])
    save(job, "a", box_threshold=0.7)
    with pytest.raises(UserError, match=r"a\.png: made with other settings: the maps \(model"):
        run(job, ["a"])
    run(replace(job, overwrite=True), ["a"])
    monkeypatch.setitem(KEYS, "a", [3])
    save(job, "a", box_threshold=0.7)
    with pytest.raises(UserError, match=r"a\.png: made with other settings: the labels"):
        run(job, ["a"])


def test_record_tells_how_a_mask_was_made(job: CrfJob, seen: list) -> None:
    run(job, ["a"])
    record = json.loads(mask_made_by(job.target("a")))
    assert record["source"] == source_of(job.images / "a.jpg") and record["keys"] == [0]
    assert (record["format"], record["code"], record["max_pixels"]) == (4, VERSION, 3_000_000)
    assert (record["confidence"], record["crf_image"], record["bilateral_sxy"]) == (0.95, "rgb", 67)


def test_a_replaced_photo_needs_new_maps_and_gets_a_new_mask(job: CrfJob, seen: list) -> None:
    """Of the same size, name and modification time as the one before. Maps without record are trusted."""
    for image_id in "ab":
        save(job, image_id)
    assert run(job)[0] == dict.fromkeys(IDS, "made")
    replace_photo(job.images / "a.jpg")
    replace_photo(job.images / "d.jpg")
    statuses = run(job)[0]
    assert statuses.pop("a") == f"failed{job.images / 'a.jpg'}: another photo than its maps were made of; run " \
        "generate_cams.py again"  # fmt: skip
    assert statuses == {"b": "kept", "c": "kept", "d": "made", "e": "kept"}
    save(job, "a")
    assert run(job)[0] == {**dict.fromkeys(IDS, "kept"), "a": "made"}


def test_a_cam_file_exchanged_meanwhile_does_not_lend_its_record(job: CrfJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the CRF is at work: the mask's record is that of the maps that it was made from."""
    save(job, "a", box_threshold=0.4)

    def exchange(image: np.ndarray, probs: np.ndarray, *_: Any) -> np.ndarray:
        save(job, "a", box_threshold=0.7)
        return probs / probs.sum(axis=0)

    monkeypatch.setattr(stage_crf, "dense_crf", exchange)
    assert run(job, ["a"])[0] == {"a": "made"}
    with pytest.raises(UserError, match=r"a\.png: made with other settings: the maps"):
        run(job, ["a"])
    save(job, "a", box_threshold=0.4)
    assert run(job, ["a"])[0] == {"a": "kept"}


def test_no_mask_is_written_where_maps_were_made_in_different_ways(job: CrfJob, seen: list) -> None:
    """The odd one is the last of the list."""
    for image_id in IDS:
        save(job, image_id, method="maskclip" if image_id == "e" else "clip-es")
    with pytest.raises(UserError, match=r"a\.npz and .*e\.npz were made in different ways: method clip-es"):
        run(job)
    assert job.out_dir is not None and not job.out_dir.exists()


def test_maps_made_in_different_ways_do_not_go_together(job: CrfJob, seen: list, world: Path) -> None:
    """Files without record (b, c, e) are trusted, wherever they stand in the list."""
    scored = replace(job, truth=world / "SegmentationClass", out_dir=None)
    save(job, "a", method="clip-es")
    assert run(scored)[2] == 5
    save(job, "d", method="maskclip", kind="logit")
    for ids in (IDS, ["d", "a"], ["a", "d"]):
        with pytest.raises(
            UserError, match=r"cams/[ad]\.npz and .*cams/[ad]\.npz were made in different ways"
        ) as caught:
            run(scored, ids)
        assert "clip-es" in str(caught.value) and "maskclip" in str(caught.value) and "kind" in str(caught.value)
    with pytest.raises(UserError, match=r"b\.npz and .*d\.npz hold maps of kind cam and logit"):
        run(scored, ["b", "d"])


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


# --- large images ---------------------------------------------------------------------------------


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., h, w) to (..., H, W), pixel by pixel: what lies under the centre of each."""
    out = np.empty((*labels.shape[:-2], *size), labels.dtype)
    for y, x in np.ndindex(*size):
        row, column = int((y + 0.5) * labels.shape[-2] / size[0]), int((x + 0.5) * labels.shape[-1] / size[1])
        out[..., y, x] = labels[..., row, column]
    return out


@pytest.fixture
def large(job: CrfJob) -> CrfJob:
    """The images a (30 x 40) and e (29 x 33); maps on a patch grid; 300 pixels are worked on."""
    for image_id, size in (("a", (30, 40)), ("e", (29, 33))):
        Image.fromarray(photo(size, 3)).save(job.images / f"{image_id}.jpg", quality=95)
        maps = np.random.default_rng(0).random((2, 2, 3, 4), np.float32)
        save_cams(job.cams / f"{image_id}.npz", Cams(np.array([0, 14]), maps[0], maps[1], size), {})
    return replace(job, max_pixels=300)


def test_a_large_image_is_worked_on_at_a_smaller_size(large: CrfJob, seen: list) -> None:
    """The photo by means of 2 x 2 pixels, the maps straight from their grid; the mask at the photo's size."""
    large = replace(large, confidence=0.4)
    found = list(stage_crf.run(large, ["a"], large.empty_totals(), 1))
    assert [(outcome.status, outcome.note) for outcome in found] == [("made", stage_crf.SHRUNK)]
    ((image, probs, _, _),) = seen
    full = np.asarray(Image.open(large.images / "a.jpg")).astype(float)
    assert image.shape == (15, 20, 3) and probs.shape == (3, 15, 20)
    assert np.abs(image - full.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))).max() <= 1
    stored = np.load(large.cams / "a.npz")["attn"]
    assert np.abs(probs[1:] - [bilinear(one, (15, 20)) for one in stored]).max() < 1e-5
    shares = probs / probs.sum(axis=0)
    labels = np.where(shares.max(axis=0) < 0.4, 255, np.array([0, 1, 15])[shares.argmax(axis=0)])
    assert {0, 1, 15, 255} <= set(labels.flat)
    assert np.array_equal(read(large, "a"), nearest(labels, (30, 40)))


def test_a_large_image_is_scored_at_full_size(large: CrfJob, seen: list, world: Path) -> None:
    truth = np.random.default_rng(5).choice(np.array([0, 1, 15, 255], np.uint8), (29, 33))
    Image.fromarray(truth).save(world / "SegmentationClass" / "e.png")
    scored = replace(large, truth=world / "SegmentationClass", confidence=0.0)  # the mask is the labels
    _, confusion, images = run(scored, ["e"])
    wanted, labels = np.zeros((21, 22), np.int64), read(scored, "e")
    for true, predicted in zip(truth.flat, labels.flat):
        if true != 255:
            wanted[true, predicted] += 1
    assert images == 1 and np.array_equal(confusion, wanted) and len(np.unique(labels)) == 3


def test_what_is_shown_has_the_size_of_the_photo(large: CrfJob, seen: list) -> None:
    labels, probabilities = stage_crf.refine(large, "a")
    small = seen[0][1] / seen[0][1].sum(axis=0)
    assert np.array_equal(probabilities, nearest(small, (30, 40)))
    assert np.array_equal(labels, np.array([0, 1, 15])[probabilities.argmax(axis=0)])


@pytest.mark.parametrize("limit", [100, 3_000_000])
def test_images_of_one_row_or_column(job: CrfJob, limit: int) -> None:
    """With the real CRF."""
    sizes = {"a": (1, 1), "b": (1, 10_000), "d": (10_000, 1)}
    for image_id, size in sizes.items():
        Image.fromarray(photo(size, 1)).save(job.images / f"{image_id}.jpg")
        maps = np.random.default_rng(0).random((1, *(min(side, 64) for side in size)), np.float32)
        save_cams(job.cam_file(image_id), Cams(np.array([6]), maps, maps, size), {})
    assert set(run(replace(job, max_pixels=limit), list(sizes))[0].values()) == {"made"}
    for image_id, size in sizes.items():
        assert read(job, image_id).shape == size and set(np.unique(read(job, image_id))) <= {0, 7, 255}


# --- trouble with one image -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("read_at", MemoryError("no room"), "MemoryError: no room"),
        ("dense_crf", ValueError("two\nlines \x1b[2J"), "ValueError: two lines ?[2J"),
        ("write_mask", KeyError("k"), "KeyError: 'k'"),
        ("confusion_of", RuntimeError("x" * 500), "RuntimeError: xxx"),
    ],
)
def test_an_unexpected_error_costs_its_image_only(
    job: CrfJob, seen: list, world: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception, words: str
) -> None:
    plain = getattr(stage_crf, place)

    def broken(*given: Any) -> Any:
        if (given[0].shape[:2] == SIZES["d"]) if isinstance(given[0], np.ndarray) else (given[0].stem == "d"):
            raise error
        return plain(*given)

    monkeypatch.setattr(stage_crf, place, broken)
    statuses, _, images = run(replace(job, truth=world / "SegmentationClass"))
    failed = statuses.pop("d")
    assert failed.startswith(f"failed{words}") and failed.isprintable() and len(failed) < 100
    assert set(statuses.values()) == {"made"} and images == 4


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("dense_crf", StopRun("disk full")),
        ("dense_crf", UserError("no such device")),
        ("dense_crf", KeyboardInterrupt()),
        ("write_mask", StopRun("disk full")),
    ],
)
def test_what_concerns_all_images_ends_the_run(
    job: CrfJob, seen: list, monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException
) -> None:
    def broken(*_: Any) -> np.ndarray:
        raise error

    monkeypatch.setattr(stage_crf, place, broken)
    with pytest.raises(type(error)):
        run(job)


def test_nothing_is_written_through_a_link_out_of_the_output(job: CrfJob, seen: list, world: Path) -> None:
    assert job.out_dir is not None
    elsewhere = _made(job.out_dir.parent / "elsewhere")
    _made(job.out_dir).joinpath("sub").symlink_to(elsewhere)
    for folder, suffix in ((job.images, "jpg"), (job.cams, "npz")):
        (_made(folder / "sub") / f"a.{suffix}").write_bytes((folder / f"a.{suffix}").read_bytes())
    statuses = run(job, ["sub/a", "a"])[0]
    assert "a link that leads out of" in statuses["sub/a"] and statuses["a"] == "made" and not list(elsewhere.iterdir())


# --- a device with too little memory --------------------------------------------------------------


class Device:
    """A stand-in for the CRF on a GPU that holds few images at once, and for the one on the CPU."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.groups, self.on_cpu = room, error, list[int](), 0

    def batch(self, given: list[np.ndarray], probs: list[np.ndarray], *_: Any) -> list[np.ndarray]:
        self.groups.append(len(given))
        if len(given) > self.room:
            raise self.error
        return [part / part.sum(axis=0) for part in probs]

    def alone(self, image: np.ndarray, probs: np.ndarray, settings: Any, backend: str) -> np.ndarray:
        assert backend == "numba"
        self.on_cpu += 1
        return probs / probs.sum(axis=0)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def on_device(job: CrfJob, device: Device, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(stage_crf, "dense_crf_batch", device.batch)
    monkeypatch.setattr(stage_crf, "dense_crf", device.alone)
    return list(stage_crf.run(replace(job, backend="torch", device="cpu"), IDS, job.empty_totals(), 2))


def test_out_of_memory_halves_the_group(job: CrfJob, seen: list, monkeypatch: pytest.MonkeyPatch) -> None:
    run(job)
    assert job.out_dir is not None
    wanted, other = tree(job.out_dir), replace(job, out_dir=job.cams.parent / "halved")
    device = Device(2, OUT_OF_MEMORY)
    assert [(outcome.status, outcome.note) for outcome in on_device(other, device, monkeypatch)] == [("made", "")] * 5
    assert device.groups == [5, 2, 3, 1, 2] and device.on_cpu == 0
    assert other.out_dir is not None and tree(other.out_dir) == wanted


def test_an_image_for_which_the_device_is_too_small_goes_to_the_cpu(
    job: CrfJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(0, OUT_OF_MEMORY)
    found = on_device(job, device, monkeypatch)
    assert [(outcome.id, outcome.status, outcome.note) for outcome in found] == [
        (image_id, "made", "CRF on the CPU, out of GPU memory") for image_id in IDS
    ]
    assert device.on_cpu == 5


def test_an_image_that_breaks_the_device_costs_no_other(job: CrfJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(given: list[np.ndarray], probs: list[np.ndarray], *_: Any) -> list[np.ndarray]:
        if any(image.shape[:2] == SIZES["d"] for image in given):
            raise RuntimeError("a kernel failed")
        return [part / part.sum(axis=0) for part in probs]

    device = Device(9, OUT_OF_MEMORY)
    device.batch = batch  # type: ignore[method-assign]
    found = {outcome.id: outcome.status + outcome.reason for outcome in on_device(job, device, monkeypatch)}
    assert found.pop("d") == "failedRuntimeError: a kernel failed" and set(found.values()) == {"made"}
    assert device.on_cpu == 0


def test_many_labels_take_no_more_memory_than_22(job: CrfJob, seen: list, world: Path) -> None:
    """Up to 22 labels an image has --max_pixels; of more, all probabilities together are no more than these have."""
    large = (3000, 4000)
    few = job.working_size(large, 21)
    assert few == job.working_size(large) == job.working_size(large, 1) == (1500, 2000)
    for classes in (22, 80, 171):
        height, width = job.working_size(large, classes)
        assert 0.99 * 22 * 3_000_000 < height * width * (classes + 1) <= 22 * 3_000_000
        assert abs(width / height - 4 / 3) < 0.01
    assert job.working_size((500, 375), 171) == (500, 375)
    keys, size = np.arange(40), (48, 32)
    job = replace(job, num_classes=40, max_pixels=48 * 32)
    save_cams(job.cam_file("d"), Cams(keys, *[np.ones((40, 2, 2), np.float32)] * 2, size), {})
    assert run(job, ["d"])[0] == {"d": "made"} and read(job, "d").shape == size
    ((image, probs, *_),) = seen
    assert len(probs) == 41 and probs.size <= 22 * 48 * 32 and image.shape[:2] == probs.shape[1:]
