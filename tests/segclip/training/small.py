"""What the tests of the pretraining build: photos with captions, as a folder and as shards, and short runs of them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segclip.training.captions import read_captions
from segclip.training.settings import Settings
from segclip.training.shards import counted
from segclip.training.trainer import Job, begin, start
from tests.support import clip_from, photo, tiny_model
from tests.training.small import ALONE
from training.ranks import Ranks
from training.state import State

SIDE, PATCH = 32, 8  # of the tiny CLIP
THINGS = ("dog", "cat", "red car", "tree", "house", "bird")


def write_folder(root: Path, count: int = 6, size: tuple[int, int] = (40, 52)) -> Path:
    """Photos p0.png, ... with two captions each."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        Image.fromarray(photo(size, index)).save(root / f"p{index}.png")
        thing = THINGS[index % len(THINGS)]
        rows.append({"image": f"p{index}.png", "captions": [f"a photo of a {thing}.", f"{thing} number {index}"]})
    (root / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return root


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar file, without webdataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_shards(root: Path, counts: Sequence[int] = (5, 4, 3), size: tuple[int, int] = (40, 52)) -> list[Path]:
    """00000.tar, ... as img2dataset writes them: key.jpg, key.json, key.txt."""
    paths = []
    for shard, count in enumerate(counts):
        members = {}
        for index in range(count):
            key, caption = f"{shard:05d}{index:04d}", f"a {THINGS[index]} in shard {shard}"
            members[f"{key}.jpg"] = encoded(photo(size, 10 * shard + index), "JPEG")
            members[f"{key}.json"] = json.dumps({"caption": caption, "status": "success"}).encode()
            members[f"{key}.txt"] = caption.encode()
        paths.append(write_tar(root / f"{shard:05d}.tar", members))
    return paths


def settings(pairs: int, **changes: Any) -> Settings:
    usual: dict[str, Any] = {"batch": 2, "max_iters": 8, "lr": 0.01, "shuffle": 4, "max_words": 8, "groups": 3}
    return Settings("0123", "quick_gelu", pairs, (), SIDE, **{**usual, **changes})


def folder_job(root: Path, out: Path, **changes: Any) -> Job:
    more = {name: changes.pop(name) for name in ("save_every", "readers", "validate", "maps") if name in changes}
    found = read_captions(root, root / "captions.jsonl")
    return Job(settings(len(found.pairs), **changes), out, found.pairs, **more)


def shard_job(paths: Sequence[Path], out: Path, **changes: Any) -> Job:
    more = {name: changes.pop(name) for name in ("save_every", "readers") if name in changes}
    shards, _ = counted(paths)
    return Job(settings(sum(shard.samples for shard in shards), **changes), out, shards=shards, **more)


def small_state(job: Job, ranks: Ranks = ALONE) -> State:
    return start(job, begin(clip_from(tiny_model().state_dict()), job.settings), ranks)
