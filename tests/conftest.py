"""Fixtures for all tests: the tiny CLIP, weight files, a small data set, the shared reference data."""

import importlib
import re
import signal
from pathlib import Path

import pytest
import torch

from clip.load import Clip
from tests.support import SHARED, Command, Desk, Ended, clip_from, openai_file, tiny_model, write_world

torch.set_num_threads(1)  # the models here are too small for more, and a busy machine punishes it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a background job; the tests send Ctrl-C to what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW_FILE = re.compile(r"^pytestmark = pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file or folder whose tests are all slow is not even imported where slow tests are left out."""
    if "not slow" not in config.getoption("-m"):
        return None
    files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    slow = [file.suffix == ".py" and bool(SLOW_FILE.search(file.read_text(encoding="utf-8"))) for file in files]
    return True if slow and all(slow) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a minute and more are left out unless they are asked for."""
    if "long" not in config.getoption("-m"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the text embeddings that another run kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_clip() -> Clip:
    """A random CLIP with three vision blocks of width 64, patch 8, native grid 4x4."""
    return clip_from(tiny_model().state_dict())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP as a file in OpenAI's form. Not to be written to."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(openai_file(tiny_model()), path)
    return path


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Five images of two patch grids, one without labels, as a VOC2012 folder."""
    scenes = {
        "a": ((31, 40), ["aeroplane"]),
        "b": ((32, 40), ["person", "aeroplane", "dog"]),
        "c": ((30, 37), []),
        "d": ((48, 32), ["cat"]),
        "e": ((29, 33), ["sofa", "person"]),
    }
    return write_world(tmp_path / "VOC2012", scenes)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `command("eval_cam", "--json", path)` in process; argparse's exits become codes too."""

    def run(module: str, *argv: object) -> Ended:
        capsys.readouterr()
        try:
            code = importlib.import_module(module).main([str(part) for part in argv])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


def _shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the reference data {SHARED / name}, which is not part of the project")
    return SHARED / name


@pytest.fixture(scope="session")
def golden() -> Path:
    """What the reference implementation gives for a small CLIP on eight photos."""
    return _shared("golden")


@pytest.fixture(scope="session")
def voc_mini() -> Path:
    """Forty photos of PASCAL VOC with their masks."""
    return _shared("voc_mini")


@pytest.fixture
def desk(tmp_path: Path, weights: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, weights, command)


@pytest.fixture
def quick_crf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CRF has its own tests; here its compilation would only cost time."""
    from pipeline.stages import crf as stage_crf

    monkeypatch.setattr(stage_crf, "dense_crf", lambda image, probs, settings, backend: probs / probs.sum(axis=0))
