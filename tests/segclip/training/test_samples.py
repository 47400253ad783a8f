"""Samples: each pair once an epoch, crops with their superpixels, and another one in the place of a broken image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip.image import MEAN, STD
from common.errors import UserError
from segclip.training.captions import caption_tokens
from segclip.training.samples import Samples, Views, collate, normalised
from segclip.training.superpixels import superpixels, write_ids
from segclip.training.trainer import Job
from tests.segclip.training.small import PATCH, SIDE, folder_job, write_folder


def samples_of(job: Job) -> Samples:
    return Samples(job.pairs, Views.of(job.settings, PATCH), job.settings, job.maps)


def test_every_pair_comes_once_an_epoch_and_what_fills_no_batch_is_left_out(tmp_path: Path) -> None:
    """12 captions in batches of 5: two batches an epoch, of an order of its own."""
    samples = samples_of(folder_job(write_folder(tmp_path), tmp_path / "out", batch=5))
    seen = [[tuple(samples[10 * epoch + place].tokens) for place in range(10)] for epoch in range(3)]
    assert all(len(set(epoch)) == 10 for epoch in seen) and seen[0] != seen[1]
    said = {tuple(caption_tokens(pair.caption, 8)) for pair in samples.pairs}
    assert set().union(*map(set, seen)) <= said


def test_a_sample_depends_on_seed_and_position_alone(tmp_path: Path) -> None:
    one, two, three = (
        samples_of(folder_job(write_folder(tmp_path), tmp_path / "out", seed=seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one[5].image, two[5].image) and np.array_equal(one[5].ids, two[5].ids)
    assert not np.array_equal(one[5].image, three[5].image)


def test_maps_that_are_there_are_read_and_give_what_those_made_now_give(tmp_path: Path) -> None:
    folder, maps = write_folder(tmp_path / "photos"), tmp_path / "maps"
    made = samples_of(folder_job(folder, tmp_path / "out"))
    for pair in made.pairs:
        stored = Image.open(pair.image).resize((41, 32), Image.Resampling.LANCZOS)  # 52x40: the shorter side is 32
        write_ids(maps / f"{pair.id}.png", superpixels(np.asarray(stored)), "")
    read = samples_of(folder_job(folder, tmp_path / "out", maps=maps))
    assert all(np.array_equal(made[place].ids, read[place].ids) for place in range(6))
    Image.new("L", (9, 9)).save(maps / "p0.png")
    found = [problem for place in range(12) for problem in read[place].problems]
    assert found and {name for name, _ in found} == {"p0"} and "superpixels of 9x9 pixels" in found[0][1]


def test_another_sample_takes_the_place_of_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    samples = samples_of(folder_job(folder, tmp_path / "out"))
    (folder / "p2.png").write_bytes(b"broken")
    found = [samples[place] for place in range(12)]
    assert {name for sample in found for name, _ in sample.problems} == {"p2"}
    assert all(sample.image.any() for sample in found)
    for path in folder.glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"21 samples in a row cannot be read; the last: .*not a readable image"):
        samples[0]


def test_a_batch_is_normalised_as_clip_wants_it_and_cut_behind_the_last_caption(tmp_path: Path) -> None:
    samples = samples_of(folder_job(write_folder(tmp_path), tmp_path / "out", max_words=20))
    some = [samples[place] for place in range(4)]
    batch = collate(some)
    longest = max(int((sample.tokens != 0).sum()) for sample in some)
    assert batch.tokens.shape == (4, longest) and batch.images.shape == (4, 3, SIDE, SIDE)
    assert batch.ids.shape == (4, 16) and batch.images.dtype == torch.uint8
    wanted = (some[1].image[2, 3, 4] / 255 - MEAN[2]) / STD[2]
    assert normalised(batch.images)[1, 2, 3, 4].item() == pytest.approx(wanted, abs=1e-5)
