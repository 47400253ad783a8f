"""Short trainings of the small MaskFormer on the segmentor's scenes of coloured squares."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dataset.classes_file import read_classes
from dataset.spec import DatasetSpec
from tests.segmentor.small import write_scenes
from tests.training.small import ALONE
from tests.zsseg.small import SIZES, small_maskformer
from training.ranks import Ranks
from training.state import State, resume
from zsseg.sizes import NETWORKS
from zsseg.training.settings import Settings
from zsseg.training.trainer import Job, start

SMALL = {name: getattr(SIZES, name) for name in NETWORKS["tiny"]}  # in place of `tiny`


def scenes_spec(root: Path, unseen: tuple[int, ...] = ()) -> DatasetSpec:
    """The scenes as a data set of a person's own: background, red, blue."""
    (root / "classes.txt").write_text("red\nblue\n")
    return replace(read_classes(root / "classes.txt"), unseen=unseen)


def small_job(root: Path, out: str = "out", **changes: Any) -> Job:
    """Four iterations with two images each; `changes` are settings, or fields of Job."""
    usual: dict[str, Any] = {"network": "tiny", "max_iters": 4, "batch": 2, "crop": 32, "sides": (32, 40), "lr": 1e-3}
    more = {name: changes.pop(name) for name in ("held_out", "save_every", "validate_every") if name in changes}
    settings = Settings(("red", "blue"), 4, text_width=16, **{"short": 32, "longest": 64, **usual, **changes})
    (root / out).mkdir(exist_ok=True)
    text = torch.nn.functional.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    return Job(settings, scenes_spec(root), [0, 1], text, text, write_scenes(root, 4), root / out, **more)


def begun(job: Job, ranks: Ranks = ALONE) -> State:
    """Fresh, or taken up from the last checkpoint."""
    state = start(job, small_maskformer(), ranks)
    resume(job.out, state, job.settings.record())
    return state
