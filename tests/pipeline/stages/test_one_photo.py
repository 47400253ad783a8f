"""One photo with moved settings: masks as the loop over images writes them, and no step is repeated for nothing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from dataset.spec import Sample
from pipeline.methods.method import CamSettings
from pipeline.methods.table import METHODS
from pipeline.stages import crf as stage_crf
from pipeline.stages import run as stage_run
from pipeline.stages.cams import CamWork
from pipeline.stages.crf import CrfJob
from pipeline.stages.one_photo import OnePhoto, Photos, late_steps
from voc12.spec import SPEC

pytestmark = pytest.mark.slow

MakeWork = Callable[..., CamWork]
QUICK: dict[str, dict[str, Any]] = {
    "clip-es": {},
    "sclip": {"templates": "dataset"},
    "maskclip": {"templates": "dataset", "frame": (64, 48)},
    "zsseg": {"templates": "dataset"},
}
MOVED: dict[str, tuple[dict[str, float], ...]] = {
    "clip-es": ({}, {"box_threshold": 0.1}, {"box_threshold": 0.9}),
    "sclip": ({}, {"prob_threshold": 0.6}, {"area_threshold": 0.3, "prob_threshold": 0.0}),
}


def crf_job(world: Path, out: Path, **more: Any) -> CrfJob:
    return CrfJob(out, world / "JPEGImages", out, None, len(SPEC.classes), mask_ending="_mask.png", **more)


def settings(method: str, **options: Any) -> CamSettings:
    return CamSettings(method=method, max_side=48, options=METHODS[method].settings(**QUICK[method], **options))


@pytest.mark.parametrize("method", QUICK)
def test_masks_are_those_of_the_loop(
    method: str, make_work: MakeWork, samples: list[Sample], world: Path, tmp_path: Path
) -> None:
    sample, moved, written = samples[1], MOVED.get(method, ({},)), set()
    photo = OnePhoto(make_work(settings=settings(method)), sample)
    for number, options in enumerate(moved):
        for crf in ({}, {"cam_type": "highres", "confidence": 0.5}, {"crf_image": "reference", "palette": True}):
            here, there = (crf_job(world, tmp_path / f"{place}{number}", **crf) for place in ("here", "there"))
            photo.write(here, options)
            work = make_work(settings=settings(method, **options), batch_size=1)
            (outcome,) = stage_run.run(work, there, [sample], set(), there.empty_totals())
            assert outcome.status == "made"
            assert here.target("b").read_bytes() == there.target("b").read_bytes()
            written.add(here.target("b").read_bytes())
    assert len(written) == 3 * len(moved)


def test_only_what_lies_behind_a_setting_is_computed_again(
    make_work: MakeWork, samples: list[Sample], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: calls.update([name]) or function(*given, **named)

    late = METHODS["clip-es"].late
    assert late is not None
    counting = replace(late, look=counted("network", late.look), finish=counted("affinity", late.finish))
    monkeypatch.setitem(METHODS, "clip-es", replace(METHODS["clip-es"], late=counting))
    monkeypatch.setattr(stage_crf, "dense_crf", counted("crf", stage_crf.dense_crf))
    job = crf_job(world, tmp_path / "masks")
    photo = OnePhoto(make_work(), samples[1])

    def cost(job: CrfJob = job, **options: float) -> dict[str, int]:
        calls.clear()
        photo.result(job, options)
        return dict(calls)

    assert cost() == {"network": 1, "affinity": 1, "crf": 1}
    assert cost() == cost(replace(job, confidence=0.3, palette=True)) == {}
    assert cost(replace(job, cam_type="highres")) == {"crf": 1}
    assert cost(box_threshold=0.7) == {"affinity": 1, "crf": 1}
    assert cost(replace(job, crf_image="reference"), box_threshold=0.7) == {"crf": 1}


def test_augmentation_leaves_nothing_to_move(make_work: MakeWork, samples: list[Sample]) -> None:
    work = make_work(settings=CamSettings(flip=True))
    assert late_steps(work) is None and len(OnePhoto(work, samples[1]).maps({})[1].maps[0]) == 3


def test_a_photo_that_fails_says_why_and_can_be_mended(make_work: MakeWork, world: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    photo = OnePhoto(make_work(), Sample("notes", path, (0,)))
    with pytest.raises(UserError, match=r"notes\.jpg: not a readable image"):
        photo.result(crf_job(world, tmp_path), {})
    path.write_bytes((world / "JPEGImages/a.jpg").read_bytes())
    assert photo.result(crf_job(world, tmp_path), {}).input.size == (31, 40)


def test_photos_are_bounded_and_the_newest_stays(
    make_work: MakeWork, samples: list[Sample], world: Path, tmp_path: Path
) -> None:
    work, job, made = make_work(), crf_job(world, tmp_path), Counter[str]()

    def look(photos: Photos, sample: Sample) -> int:
        def make() -> OnePhoto:
            made.update([sample.id])
            return OnePhoto(work, sample)

        photo = photos.get(sample.id, make)
        photo.result(job, {})
        photos.shrink()
        return photo.size

    size = look(Photos(0), samples[1])
    pixels, classes, patches = 32 * 40, 3, 4 * 5
    # the photo, its probabilities with the background, the maps before and after the affinity, and the transitions
    assert size >= pixels * (3 + 4 * (classes + 1)) + 2 * 2 * classes * patches + 4 * patches**2
    photos, made = Photos(2 * size), Counter[str]()
    for sample in (samples[1], samples[3], samples[1], samples[4], samples[1], samples[3]):
        look(photos, sample)
    assert made == {"b": 1, "d": 2, "e": 1} and 1 <= len(photos) <= 2
