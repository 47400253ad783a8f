"""The loop: what is made, kept, refused and failed, and that a continued run writes the same bytes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clip.load import Clip
from common.errors import StopRun, UserError
from common.provenance import source_of
from common.shard import every_nth
from common.version import VERSION
from dataset.spec import Sample
from pipeline.files.cam_file import load_cams, read_record
from pipeline.methods.clip_es import ClipEsSettings
from pipeline.methods.maskclip import MaskClipSettings
from pipeline.methods.method import CamSettings
from pipeline.stages import batches
from pipeline.stages import cams as stage_cams
from pipeline.stages.cams import CamWork, finished_ids
from tests.support import replace_photo, tree
from voc12.spec import SPEC

MakeWork = Callable[..., CamWork]


def outcomes(work: CamWork, samples: Sequence[Sample], overwrite: bool = False) -> dict[str, str]:
    finished = set() if overwrite else finished_ids(work, samples)
    found = list(stage_cams.run(work, samples, finished))
    assert sorted(outcome.id for outcome in found) == sorted(sample.id for sample in samples)
    return {outcome.id: outcome.status for outcome in found}


def folder(work: CamWork) -> dict[str, bytes]:
    return tree(work.job.out_dir)


def box_threshold(value: float) -> CamSettings:
    return CamSettings(options=ClipEsSettings(value))


# --- what is made ---------------------------------------------------------------------------------


def test_every_image_gets_its_file(make_work: MakeWork, samples: list[Sample]) -> None:
    work = make_work()
    assert outcomes(work, samples) == dict.fromkeys("abcde", "made")
    sizes = {"a": (31, 40), "b": (32, 40), "c": (30, 37), "d": (48, 32), "e": (29, 33)}
    for sample in samples:
        height, width = (-(-side // 8) for side in sizes[sample.id])
        with np.load(work.path(sample.id)) as arrays:
            assert arrays["cam"].shape == arrays["attn"].shape == (len(sample.labels), height, width)
        record = {**work.made_by, "source": source_of(sample.image), "keys": list(sample.labels)}
        found = read_record(work.path(sample.id))
        assert found == {**record, "scales": [1.0]} and found["code"] == VERSION and "kind" not in found
        keys, maps = load_cams(work.path(sample.id), "attn_highres", 20)
        assert tuple(keys) == sample.labels and maps.shape == (len(keys), *sizes[sample.id])
        assert maps.size == 0 or (maps.min() >= 0 and maps.max() <= 1)
    assert folder(work).keys() == {f"{image_id}.npz" for image_id in "abcde"}


def close(one: CamWork, other: CamWork, samples: Sequence[Sample], tolerance: float) -> None:
    for sample in samples:
        for cam_type in ("highres", "attn_highres"):
            first, second = (load_cams(work.path(sample.id), cam_type, 20)[1] for work in (one, other))
            assert np.allclose(first, second, atol=tolerance)


def test_batches_change_nothing_but_the_last_digits(make_work: MakeWork, samples: list[Sample]) -> None:
    alone, together = make_work("alone", batch_size=1), make_work("together", batch_size=5)
    outcomes(alone, samples)
    outcomes(together, samples)
    close(alone, together, samples, 2e-3)


def test_full_size_files_hold_what_grid_files_give(make_work: MakeWork, samples: list[Sample]) -> None:
    grid, full = make_work("grid"), make_work("full", full_size=True)
    outcomes(grid, samples)
    outcomes(full, samples)
    with np.load(full.path("a")) as arrays:
        assert arrays["highres"].shape == arrays["attn_highres"].shape == (1, 31, 40)
    close(grid, full, samples, 1e-3)


def test_a_large_image_is_shrunk_and_its_map_stands_for_all_of_it(make_work: MakeWork, samples: list[Sample]) -> None:
    work = make_work(settings=CamSettings(max_side=16))
    assert outcomes(work, samples)["a"] == "made"
    with np.load(work.path("a")) as arrays:
        assert tuple(arrays["size"]) == (31, 40) and arrays["cam"].shape == (1, 2, 2)  # 16 pixels at patch 8


@pytest.mark.slow
def test_reader_processes_write_the_same_bytes(make_work: MakeWork, samples: list[Sample]) -> None:
    samples[1].image.write_bytes(b"not an image")
    samples[3].image.write_bytes(samples[3].image.read_bytes()[:-300])
    threads, processes = make_work("threads", batch_size=2), make_work("processes", batch_size=2, readers=1)
    one = list(stage_cams.run(threads, samples, set()))
    assert one == list(stage_cams.run(processes, samples, set()))
    assert [outcome.status for outcome in one].count("failed") == 2
    assert folder(threads) == folder(processes) != {}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_shards_write_the_bytes_of_one_run(
    make_work: MakeWork, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(batches, "WINDOW", 3)
    one, shared = make_work("one", batch_size=batch_size), make_work("shared", batch_size=batch_size)
    outcomes(one, samples)
    found = []
    for index in (1, 0):
        part = every_nth(batches.plan(shared.reader, batch_size, samples), (index, 2))
        found += list(stage_cams.run_batches(shared, part, set()))
    assert sorted(outcome.id for outcome in found) == list("abcde")
    assert folder(one) == folder(shared)


def test_outcomes_of_a_batch_come_before_those_of_the_next(make_work: MakeWork, samples: list[Sample]) -> None:
    work = make_work(batch_size=2)
    samples[4].image.write_bytes(samples[4].image.read_bytes()[:-200])
    planned = [batch for batch in batches.plan(work.reader, 2, samples) if batch.samples]
    members = [{sample.id for sample in batch.samples} for batch in planned]
    found = [outcome.id for outcome in stage_cams.run_batches(work, planned, set())]
    for batch in members:
        assert set(found[: len(batch)]) == batch
        del found[: len(batch)]
    assert not found and len(members) > 1


# --- what is there already ------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_continued_run_writes_the_same_bytes(make_work: MakeWork, samples: list[Sample], batch_size: int) -> None:
    work = make_work(batch_size=batch_size)
    outcomes(work, samples)
    whole = folder(work)
    for image_id in "be":
        work.path(image_id).unlink()
    work.path("d").write_bytes(whole["d.npz"][:100])  # a damaged file counts as missing
    kept = {image_id: work.path(image_id).stat().st_mtime_ns for image_id in "ac"}
    assert outcomes(work, samples) == {"a": "kept", "b": "made", "c": "kept", "d": "made", "e": "made"}
    assert folder(work) == whole
    assert kept == {image_id: work.path(image_id).stat().st_mtime_ns for image_id in kept}  # not written again
    assert outcomes(work, samples) == dict.fromkeys("abcde", "kept")


def changed(make_work: MakeWork, clip: Clip, change: str) -> CamWork:
    """The stage set up in another way."""
    values: dict[str, Any] = {
        "template": {"spec": replace(SPEC, template="a {}")},
        "prompts": {"spec": replace(SPEC, prompts=(("x",), *SPEC.prompts[1:]))},
        "background_prompts": {"spec": replace(SPEC, background_prompts=("sky",))},
        "model": {"clip": replace(clip, fingerprint="another")},
        "activation": {"clip": replace(clip, activation="another")},
        "box_threshold": {"settings": box_threshold(0.7)},
        "flip": {"settings": CamSettings(flip=True)},
        "scales": {"settings": CamSettings(scales=(1.0, 2.0))},
        "method": {
            "settings": CamSettings(method="maskclip", options=MaskClipSettings(templates="dataset", frame=(64, 32)))
        },
        "save": {"full_size": True},
        "images": {"folder": "photos/trip"},
    }
    return make_work(**values[change])


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("template", "prompts "),
        ("prompts", "prompts "),
        ("background_prompts", "prompts "),
        ("model", r"model 0123456789abcdef \(now another\)"),
        ("activation", r"activation quick_gelu \(now another\)"),
        ("box_threshold", r"box_threshold 0\.4 \(now 0\.7\)"),
        ("flip", r"flip False \(now True\)"),
        ("scales", r"scales \[1\.0\] \(now \[1\.0, 2\.0\]\)"),
        ("method", r"method clip-es \(now maskclip\)"),
        ("save", r"save grid \(now highres\)"),
        ("images", r"images None \(now photos/trip\)"),
    ],
)
def test_files_made_in_another_way_are_refused_until_overwritten(
    make_work: MakeWork, samples: list[Sample], tiny_clip: Clip, change: str, shown: str
) -> None:
    """The first of them is named, whoever is looked at first."""
    work = make_work()
    outcomes(work, samples[:2])
    before, other = folder(work), changed(make_work, tiny_clip, change)
    with pytest.raises(UserError, match=rf"[/\\]a\.npz: made with other settings: .*{shown}.*; pass --over") as caught:
        finished_ids(other, samples)
    assert "\n" not in str(caught.value) and folder(work) == before
    assert outcomes(other, samples[:2], overwrite=True) == {"a": "made", "b": "made"}
    assert finished_ids(other, samples) == {"a", "b"} and folder(work) != before


def test_files_for_other_labels_or_of_other_code_are_refused(make_work: MakeWork, samples: list[Sample]) -> None:
    work = make_work()
    outcomes(work, samples[:1])
    with pytest.raises(UserError, match=r"a\.npz: made with other settings: the labels; pass --overwrite"):
        finished_ids(work, [replace(samples[0], labels=(3,))])
    with pytest.raises(UserError, match=r"code .* \(now 99\.0\)"):
        finished_ids(replace(work, made_by={**work.made_by, "code": "99.0"}), samples)


def test_files_that_do_not_say_how_they_were_made_count_as_missing(make_work: MakeWork, samples: list[Sample]) -> None:
    work = make_work()
    work.job.out_dir.mkdir()
    for content in ({"keys": np.array([0])}, {"made_by": np.array("[]")}, {"made_by": np.array("3")}):
        np.savez(work.path("a"), **content)
        assert finished_ids(work, samples[:1]) == set()


def test_a_replaced_image_is_worked_on_again(make_work: MakeWork, samples: list[Sample]) -> None:
    """Even one of the same size, in pixels and bytes, and of the same modification time."""
    work = make_work(batch_size=1)
    outcomes(work, samples)
    before = folder(work)
    replace_photo(samples[0].image)
    assert outcomes(work, samples) == {**dict.fromkeys("bcde", "kept"), "a": "made"}
    assert {name for name, data in folder(work).items() if data != before[name]} == {"a.npz"}


# --- too little memory, and whatever else goes wrong with one image ---------------------------------

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


def test_too_little_memory_halves_the_batch(
    make_work: MakeWork, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """a, b, c and e share a patch grid; the files are those of batches of two, which is how they were computed."""
    pairs, halved = make_work("pairs", batch_size=2), make_work("halved", batch_size=4)
    outcomes(pairs, samples)
    compute, asked = stage_cams.compute_maps, list[int]()

    def scarce(clip: Clip, images: torch.Tensor, *rest: Any) -> list:
        asked.append(len(images))
        if len(images) > 3:
            raise RuntimeError(NO_MEMORY)
        return compute(clip, images, *rest)

    monkeypatch.setattr(stage_cams, "compute_maps", scarce)
    found = list(stage_cams.run(halved, samples, set()))
    assert asked == [4, 2, 2, 1]
    notes = {outcome.id: outcome.note for outcome in found}
    assert notes == {**dict.fromkeys("abce", "batch halved: out of memory"), "d": ""}
    assert {outcome.status for outcome in found} == {"made"} and folder(pairs) == folder(halved)


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("compute_maps", RuntimeError(NO_MEMORY), "not enough memory"),
        ("compute_maps", ArithmeticError("no such\nnumber"), "ArithmeticError: no such number"),
        ("save_cams", ArithmeticError("no such\nnumber"), "ArithmeticError: no such number"),
        ("read_image", ArithmeticError("no such\nnumber"), "ArithmeticError: no such number"),
        ("image_size", ArithmeticError("no such\nnumber"), "ArithmeticError: no such number"),
    ],
)
def test_an_error_costs_its_image_only(
    make_work: MakeWork,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
    words: str,
) -> None:
    work, bad = make_work(batch_size=4), samples[1]
    module = batches if place in ("read_image", "image_size") else stage_cams
    true = getattr(module, place)

    def failing(*given: Any, **named: Any) -> Any:
        if bad.labels in given[2] if place == "compute_maps" else given[0] in (bad.image, work.path("b")):
            raise error
        return true(*given, **named)

    monkeypatch.setattr(module, place, failing)
    found = {outcome.id: outcome for outcome in stage_cams.run(work, samples, set())}
    assert {key: found[key].status for key in found} == {**dict.fromkeys("acde", "made"), "b": "failed"}
    assert found["b"].reason.startswith(f"{bad.image}: ") and words in found["b"].reason
    assert folder(work).keys() == {f"{image_id}.npz" for image_id in "acde"}


def test_a_file_that_cannot_be_written_costs_one_image(make_work: MakeWork, samples: list[Sample]) -> None:
    work = make_work()
    work.path("b").mkdir(parents=True)
    found = {outcome.id: outcome for outcome in stage_cams.run(work, samples, set())}
    assert found.pop("b").reason.startswith(f"{work.path('b')}: cannot be written")
    assert {outcome.status for outcome in found.values()} == {"made"} and len(found) == 4


@pytest.mark.parametrize("place", ["compute_maps", "save_cams"])
def test_what_stops_the_run_is_no_images_failure(
    make_work: MakeWork, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*given: object, **named: object) -> None:
        raise StopRun("disk full")

    monkeypatch.setattr(stage_cams, place, full)
    with pytest.raises(StopRun, match="disk full"):
        list(stage_cams.run(make_work(), samples, set()))
