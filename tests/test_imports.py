"""What commands must not import, since it takes seconds: checked by name in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.start import every_command
from tests.support import ROOT, write_world

LIBRARIES = {"open_clip", "transformers", "timm", "torchvision", "torch._dynamo"}  # no command needs them at start
WATCHED = {*LIBRARIES, "torch", "numba", "cv2", "numpy", "PIL", "lxml"}
pytestmark = pytest.mark.slow
CODE = f"""
import contextlib, importlib, io, json, os, sys
for name, *argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        assert importlib.import_module(name).main(argv) == 0, said.getvalue()
print(json.dumps(sorted({WATCHED} & sys.modules.keys())))
sys.stdout.flush()
os._exit(0)
"""


def imported_by(*commands: list[str], folder: Path = ROOT) -> set[str]:
    """What of WATCHED is imported after these commands have run, one after the other, in one process."""
    told = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(commands)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return set(json.loads(told.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_world(folder / "VOC2012", {"a": ((31, 40), ["aeroplane"]), "b": ((32, 40), ["person", "dog"])})
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> list[str]:
    split = folder / "VOC2012/ImageSets/Segmentation/train.txt"
    return ["--dataset", "voc12", "--img_root", str(folder / "VOC2012/JPEGImages"), "--split_file", str(split)]


@pytest.fixture(scope="module")
def made(folder: Path, data: list[str], weights: Path) -> set[str]:
    """What was imported to make the CAM files, which are there then."""
    return imported_by(["generate_cams", *data, "--model", str(weights), "--device", "cpu"], folder=folder)


def test_making_maps_imports_torch_and_no_library_of_models(made: set[str]) -> None:
    assert "torch" in made and not made & LIBRARIES


def test_one_photo_imports_no_library_of_models(folder: Path, data: list[str], weights: Path) -> None:
    photo = str(folder / "VOC2012/JPEGImages/a.jpg")
    command = ["scripts.segment", photo, "--labels", "cat", "--out", "photo", "--dataset", "voc12", "--device", "cpu"]
    found = imported_by([*command, "--model", str(weights)], folder=folder)
    assert "torch" in found and not found & LIBRARIES


def test_scoring_imports_no_torch(made: set[str], folder: Path, data: list[str]) -> None:
    truth = ["--gt_root", str(folder / "VOC2012/SegmentationClass")]
    assert not imported_by(["eval_cam", *data, *truth], folder=folder) & {*LIBRARIES, "torch", "numba"}


def test_the_crf_on_the_cpu_imports_no_torch(made: set[str], folder: Path, data: list[str]) -> None:
    for options in (["--crf", "numba"], ["--device", "cpu"]):
        found = imported_by(["eval_cam_with_crf", *data, *options, "--overwrite"], folder=folder)
        assert not found & {*LIBRARIES, "torch"}


def test_help_imports_nothing_heavy() -> None:
    modules = [name.removesuffix(".py") for name in every_command()]
    assert {"generate_cams", "scripts.run"} <= set(modules)
    assert not imported_by(*[[module, "--help"] for module in modules]) & WATCHED


def test_clip_asks_open_clip_for_nothing_but_tags(weights: Path) -> None:
    """Its vocabulary and configurations are files, which are read without it."""
    code = (
        "import sys; from clip.tokenizer import SimpleTokenizer; from clip.load import load_clip\n"
        "import clip.templates, clip.text_cache, maskclip; from common.errors import UserError\n"
        "assert SimpleTokenizer().encode('a cat')\n"
        f"try: load_clip('ViT-B-16', {str(weights)!r})\n"
        "except UserError as error: assert 'wrong file' in str(error)  # a smaller model\n"
        "else: sys.exit(2)\n"
        f"sys.exit(bool({LIBRARIES} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
