"""A list of work that several commands share, each with its own part: `--shard I/N`, or a job of a cluster."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from common.errors import UserError

Item = TypeVar("Item")
Shard = tuple[int, int]  # (index, count), index from 0
RECORD = re.compile(r"run-\d+-of-\d+\.json|failures(-\d+-of-\d+)?\.jsonl")
WHOLE: Shard = (0, 1)
HELP = "this command's part of the list: part I of N, I from 0 to N-1; not given: by RANK and WORLD_SIZE, or SLURM's"
VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))  # of torchrun and of `srun`


def shard_of(text: str | None, environ: Mapping[str, str]) -> Shard:
    """(index, count) of this process: of `--shard`, else of torchrun's variables, else of SLURM's, else (0, 1).

    text  of `--shard`: "2/8" is the third of eight parts

    Variables of a single process are ignored. Raises UserError for an invalid part.
    """
    if text is not None:
        return _parsed(text, f"--shard {text}")
    for index, count in VARIABLES:
        if index in environ and environ.get(count, "1") != "1":
            return _parsed(f"{environ[index]}/{environ[count]}", f"{index}={environ[index]} {count}={environ[count]}")
    return WHOLE


def _parsed(text: str, source: str) -> Shard:
    if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", text):
        raise UserError(f"{source}: no part of a list; expected I/N with I from 0 to N-1, such as 0/4")
    index, count = map(int, text.split("/"))
    if index >= count:
        raise UserError(f"{source}: there is no part {index} of {count}; expected I/N with I from 0 to N-1")
    return index, count


def local_rank(environ: Mapping[str, str]) -> int:
    """The number of this process on its machine, by torchrun's or SLURM's variables; it chooses the GPU."""
    rank = environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID") or "0"
    return int(rank) if rank.isdecimal() else 0


def every_nth(items: Iterable[Item], shard: Shard) -> Iterator[Item]:
    """The items of a shard: numbers index, index + count, ... of the list.

    Batches must be cut from the whole list before they are dealt out: then any number of shards writes the same bytes.
    """
    index, count = shard
    return (item for number, item in enumerate(items) if number % count == index)


def record_names(shard: Shard) -> tuple[str, str]:
    """The names of a shard's run record and list of failures, such as run-2-of-8.json and failures-2-of-8.jsonl.

    The first shard writes the folder's run.json, by which later commands know how the files there were made.
    """
    index, count = shard
    part = f"-{index}-of-{count}" if count > 1 else ""
    return f"run{part if index else ''}.json", f"failures{part}.jsonl"


def records_of_other_splits(folder: Path, shard: Shard) -> list[Path]:
    """Records in the folder from commands with another number of parts.

    A command removes them when it writes its own records, so that all records of a folder are of one split.
    """
    names = {name for index in range(shard[1]) for name in record_names((index, shard[1]))}
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in files if RECORD.fullmatch(path.name) and path.name not in names)
