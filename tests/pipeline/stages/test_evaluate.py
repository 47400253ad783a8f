"""The loop of the evaluation: large images strip by strip, and what one image may cost."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import StopRun, UserError
from dataset.mask_png import write_mask
from pipeline.files.cam_file import save_cams
from pipeline.stages import evaluate as stage_eval
from pipeline.stages.evaluate import EvalJob, confusion_of, read_truth
from pipeline.steps.maps import Cams, strips
from tests.support import bilinear

SIZE, CLASSES, EXPONENTS = (23, 31), 20, (1.0, 2.0)


@pytest.fixture
def job(tmp_path: Path) -> EvalJob:
    for seed, image_id in enumerate("abc"):
        generator = np.random.default_rng(seed)
        truth = generator.choice(np.array([0, 3, 8, 255], np.uint8), SIZE)
        write_mask(tmp_path / "truth" / f"{image_id}.png", truth)
        maps = generator.random((2, 2, 4, 5), np.float32).astype(np.float16).astype(np.float32)
        save_cams(tmp_path / "cams" / f"{image_id}.npz", Cams(np.array([2, 7]), maps[0], maps[1], SIZE), {})
    return EvalJob(tmp_path / "cams", tmp_path / "truth", "attn_highres", CLASSES + 1, EXPONENTS)


@pytest.fixture
def strips_of_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_eval, "strips", lambda size, planes, *_: strips(size, 1, 2 * size[1]))


def run(job: EvalJob) -> tuple[dict[str, str], np.ndarray, int]:
    totals = job.empty_totals()
    found = {outcome.id: outcome.status + outcome.reason for outcome in stage_eval.run(job, list("abc"), totals, 2)}
    return found, totals.confusions, totals.images


def counted(job: EvalJob) -> np.ndarray:
    """Pixel by pixel in plain Python, from the arrays in the files."""
    confusions = job.empty_totals().confusions
    for image_id in "abc":
        stored = np.load(job.folder / f"{image_id}.npz")["attn"].astype(np.float64)
        scores = np.array([bilinear(one, SIZE) for one in stored])
        truth = np.array(Image.open(job.truth / f"{image_id}.png"))
        for index, exponent in enumerate(EXPONENTS):
            for y, x in np.ndindex(*SIZE):
                if truth[y, x] != 255:
                    both = [(1 - scores[:, y, x].max()) ** exponent, *scores[:, y, x]]
                    confusions[index, truth[y, x], (0, 3, 8)[int(np.argmax(both))]] += 1
    return confusions


def test_maps_scored_in_strips_give_the_counts_of_every_pixel(job: EvalJob, strips_of_two_rows: None) -> None:
    statuses, confusions, images = run(job)
    assert set(statuses.values()) == {"made"} and images == 3
    assert np.array_equal(confusions, counted(job))


def test_maps_scored_at_once_give_the_same(job: EvalJob) -> None:
    assert len(list(strips(SIZE, 3))) == 1
    assert np.array_equal(run(job)[1], counted(job))


def test_maps_at_full_size_are_scored_in_strips(job: EvalJob, strips_of_two_rows: None, tmp_path: Path) -> None:
    for image_id in "abc":
        stored = np.load(job.folder / f"{image_id}.npz")["attn"].astype(np.float32)
        cams = Cams(np.array([2, 7]), stored, stored, SIZE)
        save_cams(tmp_path / "full" / f"{image_id}.npz", cams, {}, full_size=True)
    found, wanted = run(replace(job, folder=tmp_path / "full"))[1], counted(job)
    assert found.sum() == wanted.sum() and np.abs(found - wanted).sum() <= 0.01 * wanted.sum()  # float16 at full size


def test_masks_scored_in_strips_give_the_counts_of_every_pixel(strips_of_two_rows: None) -> None:
    generator = np.random.default_rng(0)
    truth, labels = (generator.choice(np.array([0, 1, 2, 255], np.uint8), SIZE) for _ in range(2))
    wanted = np.zeros((1, 3, 4), np.int64)
    for true, predicted in zip(truth.flat, labels.flat):
        if true != 255:
            wanted[0, true, min(predicted, 3)] += 1
    assert np.array_equal(confusion_of(truth, labels, 3), wanted)


def test_a_strange_label_is_found_in_every_strip(job: EvalJob, strips_of_two_rows: None) -> None:
    for row in (0, 7, 22):
        truth = np.zeros(SIZE, np.uint8)
        truth[row, 30] = 77
        write_mask(job.truth / "a.png", truth)
        with pytest.raises(UserError, match="holds label 77"):
            read_truth(job.truth, "a", CLASSES + 1)


# --- files made in different ways -------------------------------------------------------------------


def record(job: EvalJob, image_id: str, **record: Any) -> None:
    """A CAM file with such a record."""
    maps = np.full((2, 2, 2), 0.5, np.float32)
    save_cams(job.folder / f"{image_id}.npz", Cams(np.array([2, 7]), maps, maps, SIZE), record)


@pytest.mark.parametrize("other", [{"method": "maskclip", "kind": "logit"}, {"model": "another"}, {"kind": "logit"}])
@pytest.mark.parametrize("last", ["b", "c"])
def test_maps_made_in_different_ways_are_not_scored_together(job: EvalJob, other: dict, last: str) -> None:
    """A file without record is trusted wherever it stands, but for its kind; images and labels may differ."""
    ways = {"method": "clip-es", "model": "tiny"}
    record(job, "a", **ways, source="1-a", keys=[2])
    record(job, last, **ways, source="2-b", keys=[7])
    assert run(job)[2] == 3
    record(job, last, **{**ways, **other}, source="2-b", keys=[7])
    with pytest.raises(UserError, match=rf"/a\.npz and .*/{last}\.npz were made in different ways: ") as caught:
        run(job)
    said = str(caught.value).split("different ways: ")[1]
    assert all(f"{key} {ways.get(key, 'cam')} (there {value})" in said for key, value in other.items())
    assert said.count("(there") == len(other) and "\n" not in said
    save_cams(job.folder / "a.npz", Cams(np.array([2]), np.ones((1, 2, 2)), np.ones((1, 2, 2)), SIZE), {})
    if "kind" not in other:
        assert run(job)[2] == 3
        return
    with pytest.raises(UserError, match=rf"{last}\.npz hold maps of kind cam and logit"):
        run(job)


def test_masks_made_in_different_ways_are_not_scored_together(job: EvalJob, tmp_path: Path) -> None:
    masks = replace(job, folder=tmp_path / "masks", cam_type="png", backgrounds=(1.0,))
    ways = {"a": {"confidence": 0.5, "source": "1-a"}, "b": None, "c": {"confidence": 0.95, "source": "2-c"}}
    for image_id, way in ways.items():
        made_by = "" if way is None else json.dumps(way)
        write_mask(masks.folder / f"{image_id}.png", np.full(SIZE, 3, np.uint8), made_by=made_by)
    with pytest.raises(UserError, match=r"/a\.png and .*/c\.png were made in different ways: confidence 0\.5 \(there"):
        run(masks)
    write_mask(masks.folder / "c.png", np.full(SIZE, 3, np.uint8))
    assert run(masks)[2] == 3


@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("odd"), StopRun("full")])
def test_an_unexpected_error_costs_its_image_only(
    job: EvalJob, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plain = stage_eval.read_maps

    def broken(path: Path, *given: Any) -> Any:
        if path.stem == "b":
            raise error
        return plain(path, *given)

    monkeypatch.setattr(stage_eval, "read_maps", broken)
    if isinstance(error, StopRun):
        with pytest.raises(StopRun):
            run(job)
        return
    statuses, _, images = run(job)
    assert statuses == {"a": "made", "b": f"failed{type(error).__name__}: {error}", "c": "made"} and images == 2
