"""Shards: every sample once an epoch, in order from anywhere, whatever the readers; broken tars and samples."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from clip.tokenizer import SimpleTokenizer
from common.errors import UserError
from segclip.training.samples import Batch, Views
from segclip.training.shards import Shard, ShardBatches, counted, find_shards, parts_of_epoch
from segclip.training.trainer import Job
from tests.segclip.training.small import PATCH, encoded, photo, shard_job, write_shards, write_tar


def batches_of(job: Job, rank: int = 0, readers: int = 0) -> ShardBatches:
    return ShardBatches(job.shards, Views.of(job.settings, PATCH), job.settings, rank, readers)


def words(batch: Batch) -> list[tuple[int, ...]]:
    """What each caption says, as the ids between start and end."""
    end = SimpleTokenizer.eot_token_id
    return [tuple(row[1 : row.tolist().index(end)].tolist()) for row in batch.tokens]


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_sample_comes_once_an_epoch(tmp_path: Path, ranks: int) -> None:
    """12 samples in batches of 2, in a new order the next time; two processes share them."""
    job = shard_job(write_shards(tmp_path), tmp_path / "out", ranks=ranks)
    assert job.settings.epoch == 6 // ranks
    epochs: list[list[tuple[int, ...]]] = [[], []]
    for rank in range(ranks):
        batches = list(islice(batches_of(job, rank), 2 * job.settings.epoch))
        for number, batch in enumerate(batches):
            epochs[number // job.settings.epoch] += words(batch)
    assert all(len(set(epoch)) == 12 for epoch in epochs) and epochs[0] != epochs[1]


def test_a_run_goes_on_from_anywhere_whatever_the_readers(tmp_path: Path) -> None:
    job = shard_job(write_shards(tmp_path), tmp_path / "out")
    whole = list(islice(batches_of(job), 10))
    for readers in (0, 2):
        again = batches_of(job, readers=readers)
        again.load_state_dict({"yielded": 4})
        for one, two in zip(whole[4:], again):
            assert torch.equal(one.images, two.images) and torch.equal(one.tokens, two.tokens)
            assert torch.equal(one.ids, two.ids)
        assert again.state_dict()["yielded"] >= 10


def test_the_parts_of_processes_cover_each_sample_once() -> None:
    shards = [Shard(Path(str(index)), size) for index, size in enumerate((5, 1, 9, 4))]
    for epoch in range(4):
        found = Counter(
            (part.path.name, place)
            for rank in range(3)
            for part in parts_of_epoch(shards, 0, epoch, rank, 3)
            for place in range(part.first, part.end)
        )
        assert found == Counter((str(index), place) for index, size in enumerate((5, 1, 9, 4)) for place in range(size))


def test_names_of_shards(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, (1, 1, 1))
    for given in ([str(tmp_path)], [f"{tmp_path}/*.tar"], [f"{tmp_path}/{{00000..00002}}.tar"], list(map(str, paths))):
        assert find_shards(given) == paths
    with pytest.raises(UserError, match="no tar file; expected a tar file as img2dataset writes it"):
        find_shards([str(tmp_path / "9.tar")])


def test_counts_are_read_from_headers_or_from_img2datasets_statistics(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, (3, 2))
    assert [shard.samples for shard in counted(paths)[0]] == [3, 2]
    (tmp_path / "00000_stats.json").write_text(json.dumps({"successes": 7}))
    assert [shard.samples for shard in counted(paths)[0]] == [7, 2]


def test_broken_tars_and_samples_are_named_and_the_others_are_used(tmp_path: Path) -> None:
    """One tar is cut in its middle, one is none; one sample has no caption, one no image, one a broken image."""
    cut, *_ = write_shards(tmp_path, (5,))
    cut.write_bytes(cut.read_bytes()[: 2 * cut.stat().st_size // 3])
    (tmp_path / "none.tar").write_bytes(b"x" * 3000)
    image = encoded(photo((40, 52), 3), "JPEG")
    odd = {"a.jpg": image, "a.txt": b"fine", "b.jpg": image, "b.txt": b" ", "c.txt": b"no image"}
    write_tar(tmp_path / "odd.tar", {**odd, "d.jpg": b"broken", "d.txt": b"x", "e.jpg": image, "e.json": b"{}"})
    shards, problems = counted(find_shards([str(tmp_path)]))
    assert [name for name, _ in problems] == ["none.tar"] and "a broken tar" in problems[0][1]
    assert [shard.path.name for shard in shards] == ["00000.tar", "odd.tar"]
    job = shard_job([shard.path for shard in shards], tmp_path / "out")
    found = list(islice(batches_of(job), 3 * job.settings.epoch))
    said = dict(problem for batch in found for problem in batch.problems)
    assert "a broken tar" in said["00000.tar"] and "b has an empty caption" in said["odd.tar/b"]
    assert "c has no image" in said["odd.tar/c"] and "e has an empty caption" in said["odd.tar/e"]
    assert "not a readable image" in said["odd.tar/d"] and len(said) == 5
    assert all("\n" not in reason for reason in said.values())


def test_nothing_that_can_be_used_ends_the_run(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"x", "a.txt": b" ", "b.jpg": b"x", "b.txt": b""})
    with pytest.raises(UserError, match=r"no sample of epoch 1 can be used: .*a\.tar: a has an empty caption"):
        next(iter(batches_of(shard_job([path], tmp_path / "out"))))
