"""Installed, the project leaves other people's `clip` and `pipeline` alone, and finds its own, in all its processes."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, Command, tree

STRANGERS = {"clip": "NAME = 'OpenAI'\n", "pipeline": "NAME = 'somebody'\n"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: those of strangers, and this project, whose own folder is not on the path."""
    site = tmp_path / "site"
    site.mkdir()
    for name, text in STRANGERS.items():
        (site / f"{name}.py").write_text(text)
    (site / "clip_pseudo_masks").symlink_to(ROOT / "clip_pseudo_masks")
    return site


def python(site: Path, *arguments: object) -> str:
    """What Python prints with these packages installed, run in another folder."""
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=site.parent,
        env={"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(site), "OMP_NUM_THREADS": "1", "HOME": "/", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


CHECK = """
import sys
path = list(sys.path)
if {first}: import clip, pipeline
from clip_pseudo_masks.cli.lookup import dataset_spec  # imports by short names, at once and later, and by text
from clip_pseudo_masks.cli.jobs import check_json_scores
from argparse import Namespace
spec = dataset_spec("voc12")  # from a table of names
check_json_scores(Namespace(json=None), True)  # imports common.files when it is called
assert len(spec.classes) == 20 and "clip_pseudo_masks.common.files" in sys.modules
import clip, pipeline
assert (clip.NAME, pipeline.NAME) == ("OpenAI", "somebody")
rooms = sys.modules["clip_pseudo_masks"].ROOMS - {{"clip", "pipeline"}}
assert sys.path == path and not rooms & sys.modules.keys()
from clip_pseudo_masks.dataset import spec as module
assert module.__name__ == "clip_pseudo_masks.dataset.spec" and module is sys.modules[type(spec).__module__]
try: from clip_pseudo_masks import nothing
except ImportError: print("done")
"""


@pytest.mark.parametrize("first", [True, False])
def test_an_import_by_a_short_name_means_ours_in_our_modules_alone(site: Path, first: bool) -> None:
    assert python(site, "-c", CHECK.format(first=first)) == "done\n"


def test_ray_sends_its_nodes_the_package(tmp_path: Path) -> None:
    """Where the command is installed; what it sends finds itself."""
    ray_cluster = importlib.import_module("clip_pseudo_masks.engine.ray_cluster")
    site = tmp_path / "sent"
    ray_cluster.copy_code(site)
    assert [path.name for path in site.iterdir()] == ["clip_pseudo_masks"]
    code = "import clip_pseudo_masks.engine.ray_stage as stage, common; print(stage.__file__)"
    with pytest.raises(AssertionError, match="No module named 'common'"):
        python(site, "-c", code)
    assert python(site, "-c", code.replace(", common", "")).startswith(str(site))


@pytest.mark.slow
def test_worker_processes_find_the_same_modules(
    site: Path, world: Path, weights: Path, tmp_path: Path, command: Command
) -> None:
    """And the files are those that the command in its own folder writes."""
    options = ["--dataset", "voc12", "--img_root", world, "--model", weights, "--device", "cpu"]
    here = [*options, "--num_workers", 2, "--cam_out_dir", tmp_path / "installed"]
    assert "5 CAM files written" in python(site, "-m", "clip_pseudo_masks", "cams", *here)
    assert command("generate_cams", *options, "--cam_out_dir", tmp_path / "in place").code == 0
    installed, in_place = tree(tmp_path / "installed"), tree(tmp_path / "in place")
    assert installed.keys() == in_place.keys() and len(installed) == 6  # one image has no labels; run.json, failures
    assert all(installed[name] == in_place[name] for name in installed if name.endswith(".npz"))
