"""The loop: what is made, kept, refused and failed, and that a continued run writes the same bytes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip.load import Clip
from common.errors import StopRun, UserError
from common.version import VERSION
from dataset.spec import Sample
from dataset.voc_layout import read_split, voc_paths, voc_samples
from pipeline.files.cam_file import load_cams, read_arrays
from pipeline.methods.method import CamSettings
from pipeline.stages import batches
from pipeline.stages import cams as stage_cams
from pipeline.stages.cams import CamJob, finished_ids, record, text_set
from tests.support import tree
from voc12.spec import SPEC

MakeJob = Callable[..., CamJob]


@pytest.fixture
def samples(world: Path) -> list[Sample]:
    paths = voc_paths(world)
    found, failures = voc_samples(paths, SPEC.classes, read_split(paths.split))
    assert not failures
    return found


@pytest.fixture(scope="session")
def texts(tiny_clip: Clip) -> stage_cams.TextSet:
    return text_set(tiny_clip, SPEC)


@pytest.fixture
def make_job(tiny_clip: Clip, texts: stage_cams.TextSet, tmp_path: Path) -> MakeJob:
    def make(batch_size: int = 3, full_size: bool = False, out: str = "cams", **settings: object) -> CamJob:
        chosen = CamSettings(**settings)  # type: ignore[arg-type]
        made_by = record(tiny_clip, SPEC, chosen, full_size)
        return CamJob(tiny_clip, texts, chosen, tmp_path / out, made_by, full_size, batch_size)

    return make


def outcomes(job: CamJob, samples: list[Sample], overwrite: bool = False) -> dict[str, str]:
    finished = set() if overwrite else finished_ids(job, samples)
    found = list(stage_cams.run(job, samples, finished))
    assert sorted(outcome.id for outcome in found) == sorted(sample.id for sample in samples)
    return {outcome.id: outcome.status for outcome in found}


def test_every_image_gets_its_file(make_job: MakeJob, samples: list[Sample]) -> None:
    job = make_job()
    assert outcomes(job, samples) == dict.fromkeys("abcde", "made")
    sizes = {"a": (31, 40), "b": (32, 40), "c": (30, 37), "d": (48, 32), "e": (29, 33)}
    labels = {"a": [0], "b": [14, 0, 11], "c": [], "d": [7], "e": [17, 14]}
    for image_id, size in sizes.items():
        arrays = read_arrays(job.path(image_id))
        height, width = -(-size[0] // 8), -(-size[1] // 8)
        assert arrays["cam"].shape == arrays["attn"].shape == (len(labels[image_id]), height, width)
        assert json.loads(str(arrays["made_by"])) == job.made_by
        keys, maps = load_cams(job.path(image_id), "attn_highres", 20)
        assert keys.tolist() == labels[image_id] and maps.shape == (len(keys), *size)
        assert maps.size == 0 or (maps.min() >= 0 and maps.max() <= 1)
    assert sorted(path.name for path in job.out_dir.iterdir()) == [f"{image_id}.npz" for image_id in "abcde"]


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_change_nothing_but_the_last_digits(make_job: MakeJob, samples: list[Sample], batch_size: int) -> None:
    alone, together = make_job(1, out="alone"), make_job(batch_size, out="together")
    outcomes(alone, samples)
    outcomes(together, samples)
    for sample in samples:
        for cam_type in ("highres", "attn_highres"):
            one, other = (load_cams(job.path(sample.id), cam_type, 20)[1] for job in (alone, together))
            assert np.allclose(one, other, atol=2e-3)


def test_full_size_files_hold_what_grid_files_give(make_job: MakeJob, samples: list[Sample]) -> None:
    grid, full = make_job(out="grid"), make_job(out="full", full_size=True)
    outcomes(grid, samples)
    outcomes(full, samples)
    for sample in samples:
        assert "highres" in read_arrays(full.path(sample.id))
        for cam_type in ("highres", "attn_highres"):
            one, other = (load_cams(job.path(sample.id), cam_type, 20) for job in (grid, full))
            assert one[0].tolist() == other[0].tolist() and np.allclose(one[1], other[1], atol=1e-3)


def test_reader_processes_write_the_same_bytes(make_job: MakeJob, samples: list[Sample]) -> None:
    samples[1].image.write_bytes(b"not an image")
    samples[3].image.write_bytes(samples[3].image.read_bytes()[:-300])
    threads, processes = make_job(2, out="threads"), make_job(2, out="processes")
    one = list(stage_cams.run(threads, samples, set()))
    other = list(stage_cams.run(processes, samples, set(), readers=1))
    assert one == other and [outcome.status for outcome in one].count("failed") >= 1
    assert tree(threads.out_dir) == tree(processes.out_dir) != {}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_continued_run_writes_the_same_bytes(make_job: MakeJob, samples: list[Sample], batch_size: int) -> None:
    job = make_job(batch_size)
    outcomes(job, samples)
    whole = tree(job.out_dir)
    for image_id in "be":
        job.path(image_id).unlink()
    job.path("d").write_bytes(whole["d.npz"][:100])  # a damaged file counts as missing
    kept = {image_id: job.path(image_id).stat().st_mtime_ns for image_id in "ac"}
    assert outcomes(job, samples) == {"a": "kept", "b": "made", "c": "kept", "d": "made", "e": "made"}
    assert tree(job.out_dir) == whole
    assert kept == {image_id: job.path(image_id).stat().st_mtime_ns for image_id in kept}  # not written again
    assert outcomes(job, samples) == dict.fromkeys("abcde", "kept")


def test_overwriting_makes_all_again(make_job: MakeJob, samples: list[Sample]) -> None:
    outcomes(make_job(box_threshold=0.1), samples)
    other = make_job(box_threshold=0.9)
    assert outcomes(other, samples, overwrite=True) == dict.fromkeys("abcde", "made")
    assert json.loads(str(read_arrays(other.path("a"))["made_by"]))["box_threshold"] == 0.9


@pytest.mark.parametrize(
    ("first", "then", "shown"),
    [
        ({}, {"box_threshold": 0.7}, r"box_threshold 0\.4 \(now 0\.7\)"),
        ({"flip": True}, {}, r"flip True \(now False\)"),
        ({}, {"scales": (1.0, 2.0)}, r"scales \[1\.0\] \(now \[1\.0, 2\.0\]\)"),
        ({}, {"full_size": True}, r"save grid \(now highres\)"),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    make_job: MakeJob, samples: list[Sample], first: dict, then: dict, shown: str
) -> None:
    outcomes(make_job(**first), samples[:1])
    before = tree(make_job().out_dir)
    with pytest.raises(UserError, match=rf"a\.npz: made with other settings: {shown}; pass --overwrite") as caught:
        finished_ids(make_job(**then), samples)
    assert "\n" not in str(caught.value) and tree(make_job().out_dir) == before


@pytest.mark.parametrize("change", ["template", "prompts", "background_prompts", "activation", "model"])
def test_other_words_or_weights_are_refused(
    make_job: MakeJob, samples: list[Sample], tiny_clip: Clip, change: str
) -> None:
    job, spec, clip = make_job(), SPEC, tiny_clip
    outcomes(job, samples[:1])
    if change in ("activation", "model"):
        clip = replace(clip, **{"fingerprint" if change == "model" else change: "another"})
    else:
        values = {"template": "a {}", "prompts": (("x",), *SPEC.prompts[1:]), "background_prompts": ("sky",)}
        spec = replace(SPEC, **{change: values[change]})
    with pytest.raises(UserError, match=change if clip is not tiny_clip else "prompts"):
        finished_ids(replace(job, made_by=record(clip, spec, job.settings, False)), samples)


def test_other_labels_are_refused(make_job: MakeJob, samples: list[Sample]) -> None:
    job = make_job()
    outcomes(job, samples[:1])
    with pytest.raises(UserError, match=r"a\.npz: made for other labels"):
        finished_ids(job, [replace(samples[0], labels=(3,))])


@pytest.mark.parametrize("content", [{"keys": np.array([0])}, {"made_by": np.array("[]")}, {"made_by": np.array("3")}])
def test_a_foreign_file_counts_as_missing(make_job: MakeJob, samples: list[Sample], content: dict) -> None:
    job = make_job()
    job.out_dir.mkdir()
    np.savez(job.path("a"), **content)
    assert finished_ids(job, samples[:1]) == set()


@pytest.mark.parametrize("damage", [b"", b"no image", None])
@pytest.mark.parametrize("at", ["a", "b"])
def test_a_bad_image_fails_and_the_others_are_made(
    make_job: MakeJob, samples: list[Sample], at: str, damage: bytes | None
) -> None:
    """An image whose header is broken, and one that breaks off in the middle."""
    bad = next(sample for sample in samples if sample.id == at)
    bad.image.write_bytes(bad.image.read_bytes()[:-200] if damage is None else damage)
    job = make_job()
    found = {outcome.id: outcome for outcome in stage_cams.run(job, samples, set())}
    assert {image_id: outcome.status for image_id, outcome in found.items()} == {
        **dict.fromkeys("abcde", "made"),
        at: "failed",
    }
    assert f"{bad.image}: not a readable image" in found[at].reason and "\n" not in found[at].reason
    assert not job.path(at).exists() and len(list(job.out_dir.iterdir())) == 4


@pytest.mark.parametrize("batch_size", [1, 2])
def test_who_works_on_which_batch_changes_no_byte(
    make_job: MakeJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(batches, "WINDOW", 3)
    one, shared = make_job(batch_size, out="one"), make_job(batch_size, out="shared")
    outcomes(one, samples)
    planned = list(batches.plan(shared.reader, batch_size, samples))
    found = [
        outcome for part in (planned[1::2], planned[::2]) for outcome in stage_cams.run_batches(shared, part, set())
    ]
    assert sorted(outcome.id for outcome in found) == list("abcde")
    assert tree(one.out_dir) == tree(shared.out_dir)


def test_outcomes_of_a_batch_come_before_those_of_the_next(make_job: MakeJob, samples: list[Sample]) -> None:
    job = make_job(2)
    samples[4].image.write_bytes(samples[4].image.read_bytes()[:-200])
    planned = [batch for batch in batches.plan(job.reader, 2, samples) if batch.samples]
    ids = [{sample.id for sample in batch.samples} for batch in planned]
    found = [outcome.id for outcome in stage_cams.run_batches(job, planned, set())]
    for members in ids:
        assert set(found[: len(members)]) == members
        del found[: len(members)]
    assert not found and len(ids) > 1


@pytest.mark.parametrize(
    ("grid", "largest", "size"), [((32, 32), 8, 8), ((32, 32), 3, 3), ((64, 64), 8, 2), ((99, 99), 8, 1)]
)
def test_batches_shrink_with_the_square_of_the_patches(grid: tuple[int, int], largest: int, size: int) -> None:
    assert batches.batch_size_for(grid, largest) == size


def test_a_large_image_is_shrunk_and_its_map_stands_for_all_of_it(make_job: MakeJob, samples: list[Sample]) -> None:
    job = make_job()
    job = replace(job, settings=replace(job.settings, max_side=16))
    assert set(outcomes(job, samples).values()) == {"made"}
    for sample in samples:
        with Image.open(sample.image) as image, np.load(job.path(sample.id)) as arrays:
            assert tuple(arrays["size"]) == (image.height, image.width)
            assert max(arrays["cam"].shape[1:]) <= 2  # 16 pixels at patch 8


NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


def scarce(monkeypatch: pytest.MonkeyPatch, holds: int) -> list[int]:
    """A device that holds so many images and no more; returns how many it was asked to hold, each time."""
    compute, asked = stage_cams.compute_maps, list[int]()

    def limited(clip: object, images: torch.Tensor, *rest: object) -> list:
        asked.append(len(images))
        if len(images) > holds:
            raise RuntimeError(NO_MEMORY)
        return compute(clip, images, *rest)

    monkeypatch.setattr(stage_cams, "compute_maps", limited)
    return asked


def test_too_little_memory_halves_the_batch(
    make_job: MakeJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """a, b, c and e share a patch grid; the files are those of batches of two, which is how they were computed."""
    pairs, halved = make_job(2, out="pairs"), make_job(4, out="halved")
    outcomes(pairs, samples)
    asked = scarce(monkeypatch, holds=3)
    found = list(stage_cams.run(halved, samples, set()))
    assert asked == [4, 2, 2, 1]
    assert {outcome.id: outcome.note for outcome in found} == {
        **dict.fromkeys("abce", "batch halved: out of memory"),
        "d": "",
    }
    assert {outcome.status for outcome in found} == {"made"} and tree(pairs.out_dir) == tree(halved.out_dir)


def test_too_little_memory_for_one_image_costs_that_image(
    make_job: MakeJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = stage_cams.compute_maps

    def limited(clip: object, images: torch.Tensor, labels: list, *rest: object) -> list:
        if samples[1].labels in labels:
            raise RuntimeError(NO_MEMORY)
        return compute(clip, images, labels, *rest)

    monkeypatch.setattr(stage_cams, "compute_maps", limited)
    found = {outcome.id: outcome for outcome in stage_cams.run(make_job(4), samples, set())}
    assert {image_id for image_id, outcome in found.items() if outcome.status == "failed"} == {"b"} and len(found) == 5
    assert str(samples[1].image) in found["b"].reason and "not enough memory" in found["b"].reason


# --- whatever goes wrong with one image -----------------------------------------------------------


@pytest.mark.parametrize("place", ["read_image", "prepare_image", "compute_maps", "save_cams", "plan"])
def test_an_error_that_nobody_thought_of_costs_one_image(
    make_job: MakeJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    module = stage_cams if place in ("compute_maps", "save_cams") else batches
    name = "image_size" if place == "plan" else place
    true, bad = getattr(module, name), samples[1]
    broken = {"read_image": bad.image, "plan": bad.image, "save_cams": make_job().path("b")}.get(place)

    def failing(*given: object, **named: object) -> object:
        of_bad = given[0] == broken
        if place == "prepare_image":
            of_bad = given[0].size == (40, 32)  # type: ignore[attr-defined]
        if place == "compute_maps":
            of_bad = bad.labels in given[2]  # type: ignore[operator]
        if of_bad:
            raise ArithmeticError("no such\nnumber")
        return true(*given, **named)

    monkeypatch.setattr(module, name, failing)
    found = {outcome.id: outcome for outcome in stage_cams.run(make_job(3), samples, set())}
    assert {image_id: outcome.status for image_id, outcome in found.items()} == {
        **dict.fromkeys("acde", "made"),
        "b": "failed",
    }
    assert found["b"].reason == f"{bad.image}: ArithmeticError: no such number"


def test_a_file_that_cannot_be_written_costs_one_image(make_job: MakeJob, samples: list[Sample]) -> None:
    job = make_job()
    job.path("b").mkdir(parents=True)
    found = {outcome.id: outcome for outcome in stage_cams.run(job, samples, set())}
    assert found.pop("b").reason.startswith(f"{job.path('b')}: cannot be written")
    assert {outcome.status for outcome in found.values()} == {"made"} and len(found) == 4


@pytest.mark.parametrize("place", ["read_image", "compute_maps", "save_cams"])
def test_what_stops_the_run_is_no_images_failure(
    make_job: MakeJob, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*given: object, **named: object) -> None:
        raise StopRun("disk full")

    monkeypatch.setattr(batches if place == "read_image" else stage_cams, place, full)
    with pytest.raises(StopRun, match="disk full"):
        list(stage_cams.run(make_job(), samples, set()))


def test_files_of_another_version_of_the_code_are_refused(make_job: MakeJob, samples: list[Sample]) -> None:
    job = make_job()
    outcomes(job, samples[:1])
    assert job.made_by["code"] == VERSION
    with pytest.raises(UserError, match=r"code .* \(now 99\.0\)"):
        finished_ids(replace(job, made_by={**job.made_by, "code": "99.0"}), samples)


def test_the_first_of_many_refused_files_is_named(make_job: MakeJob, samples: list[Sample]) -> None:
    """Files are looked at side by side; what is told does not depend on who comes first."""
    outcomes(make_job(), samples)
    with pytest.raises(UserError, match=r"[/\\]a\.npz: made with other settings"):
        finished_ids(make_job(box_threshold=0.7), samples)


def test_a_replaced_image_is_worked_on_again(make_job: MakeJob, samples: list[Sample]) -> None:
    job = make_job()
    outcomes(job, samples)
    with Image.open(samples[0].image) as image:
        larger = image.resize((image.width + 3, image.height))
    larger.save(samples[0].image)
    found = outcomes(job, samples)
    assert found.pop(samples[0].id) == "made" and set(found.values()) == {"kept"}
