"""Parts of a list that several commands share."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.shard import every_nth, record_names, records_of_other_splits, shard_of

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        (None, {}, (0, 1)),
        ("2/8", {}, (2, 8)),
        ("0/1", TORCHRUN, (0, 1)),
        (None, TORCHRUN, (3, 4)),
        (None, TORCHRUN | SLURM, (3, 4)),
        (None, SLURM, (1, 2)),
        (None, {"RANK": "0", "WORLD_SIZE": "1"} | SLURM, (1, 2)),
        (None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (0, 1)),
        (None, {"SLURM_PROCID": "5"}, (0, 1)),
        (None, {"WORLD_SIZE": "4"}, (0, 1)),
    ],
)
def test_where_a_shard_comes_from(text: str | None, environ: dict[str, str], expected: tuple[int, int]) -> None:
    assert shard_of(text, environ) == expected


@pytest.mark.parametrize(
    "text", ["8/8", "9/8", "0/0", "-1/4", "1", "1/", "/4", "1/4/2", "a/b", "1.0/4", "", "\u0661/\u0664"]
)
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--shard .*expected I/N"):
        shard_of(text, {})


def test_variables_that_are_no_part_are_named() -> None:
    with pytest.raises(UserError, match="RANK=4 WORLD_SIZE=4: there is no part 4 of 4"):
        shard_of(None, {"RANK": "4", "WORLD_SIZE": "4"})


@pytest.mark.parametrize("count", [1, 2, 3, 11])
def test_the_shards_are_the_list(count: int) -> None:
    parts = [list(every_nth(iter(range(10)), (index, count))) for index in range(count)]
    assert sorted(number for part in parts for number in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts[0] == list(range(10))[::count]


def test_no_two_shards_write_one_record() -> None:
    assert record_names((0, 1)) == ("run.json", "failures.jsonl")
    assert record_names((2, 8)) == ("run-2-of-8.json", "failures-2-of-8.jsonl")
    names = [name for index in range(8) for name in record_names((index, 8))]
    assert len(set(names)) == 16 and "run.json" in names


def test_records_of_another_split_are_told_from_ours(tmp_path: Path) -> None:
    for shard in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]:
        for name in record_names(shard):
            (tmp_path / name).touch()
    for name in ("run-of-the-mill.json", "failures.json", "failures-x-of-2.jsonl", "a.npz"):
        (tmp_path / name).touch()
    found = [path.name for path in records_of_other_splits(tmp_path, (0, 2))]
    assert found == [
        *("failures-1-of-3.jsonl", "failures-2-of-3.jsonl", "failures.jsonl"),
        *("run-1-of-3.json", "run-2-of-3.json"),
    ]
    assert len(records_of_other_splits(tmp_path, (0, 1))) == 7
