"""The loop of the evaluation: large images strip by strip, and what one image may cost."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import StopRun
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


@pytest.mark.parametrize("row", [0, 7, 22])
def test_a_strange_label_is_found_in_every_strip(job: EvalJob, strips_of_two_rows: None, row: int) -> None:
    truth = np.zeros(SIZE, np.uint8)
    truth[row, 30] = 77
    write_mask(job.truth / "a.png", truth)
    with pytest.raises(Exception, match="holds label 77"):
        read_truth(job.truth, "a", CLASSES + 1)


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
