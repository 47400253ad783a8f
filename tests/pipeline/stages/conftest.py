"""The small world as samples, and the CAM stage set up with the tiny CLIP."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clip.load import Clip
from dataset.spec import DatasetSpec, Sample
from dataset.split_file import read_split
from dataset.voc_layout import voc_paths, voc_samples
from pipeline.methods.method import CamSettings
from pipeline.stages.cams import CamJob, CamWork, ModelSource, set_up
from voc12.spec import SPEC

MakeWork = Callable[..., CamWork]


@pytest.fixture(scope="session")
def kept_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(kept_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text embeddings are kept from test to test here: the model and most of the words are the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept_cache))


@pytest.fixture
def samples(world: Path) -> list[Sample]:
    paths = voc_paths(world)
    found, failures = voc_samples(paths, SPEC.classes, read_split(paths.split))
    assert not failures
    return found


@dataclass(frozen=True)
class Loaded(ModelSource):
    """A model that is in memory already."""

    clip: Clip | None = None

    def load(self, worker: int = 0, resnets: bool = False, method: object = None) -> Clip:
        assert self.clip is not None
        return self.clip


@pytest.fixture
def make_work(tiny_clip: Clip, tmp_path: Path) -> MakeWork:
    def make(
        out: str = "cams", spec: DatasetSpec = SPEC, clip: Clip = tiny_clip, settings: Any = None, **job: Any
    ) -> CamWork:
        source, folder = Loaded("tiny", clip=clip), tmp_path / out
        return set_up(CamJob(spec, source, settings or CamSettings(), folder, **{"batch_size": 3, **job}))

    return make
