"""What the wheel holds and asks for; a long test installs it."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from clip_pseudo_masks import ROOMS
from common.version import VERSION
from tests.support import ROOT

PACKAGE = "clip_pseudo_masks"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel (requirements-dev.txt)")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"{PACKAGE}-{VERSION}.dist-info/{name}").decode()


def test_it_holds_the_tree_as_it_stands_below_one_name(wheel: zipfile.ZipFile) -> None:
    """All that git knows of the rooms, and nothing else; the bytes are the same."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file() and not name.endswith(".sh")]
    rooms = [name for name in tracked if name.split("/")[0].removesuffix(".py") in ROOMS]
    expected = {f"{PACKAGE}/{name}": name for name in rooms}
    expected |= {name: name for name in tracked if name.startswith(f"{PACKAGE}/")}
    held = {name for name in wheel.namelist() if not name.startswith(f"{PACKAGE}-{VERSION}.dist-info/")}
    assert held == expected.keys() and f"{PACKAGE}/toyworld/clip.pt" in held
    assert all(wheel.read(name) == (ROOT / source).read_bytes() for name, source in expected.items())
    assert sum(entry.compress_size for entry in wheel.infolist()) < 8e6  # bytes


def test_its_metadata(wheel: zipfile.ZipFile) -> None:
    facts = Parser().parsestr(metadata(wheel, "METADATA"))
    assert (facts["Name"], facts["Version"]) == ("clip-pseudo-masks", VERSION)
    assert "pseudo-masks = clip_pseudo_masks.console:main" in metadata(wheel, "entry_points.txt")
    assert {"segmentor", "ray", "hub"} <= set(facts.get_all("Provides-Extra"))
    base = {line.split(">")[0] for line in facts.get_all("Requires-Dist") if ";" not in line}
    assert {"torch", "numpy", "open-clip-torch"} <= base and not {"transformers", "gradio", "ray[data]"} & base


def one_form(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.lower())


def test_the_tested_versions_are_among_those_that_are_asked_for(wheel: zipfile.ZipFile) -> None:
    """Every package that the wheel asks for has an exact version in requirements*.txt, which its bounds allow."""
    lines = Parser().parsestr(metadata(wheel, "METADATA")).get_all("Requires-Dist")
    asked = {one_form(requirement.name): requirement for requirement in map(Requirement, lines)}
    tested = pins("requirements*.txt")
    assert not [str(one) for name, one in asked.items() if not one.specifier.contains(tested[name])]
    assert pins("requirements.txt").keys() <= {*asked, "timm"}  # which open_clip brings


def pins(pattern: str) -> dict[str, str]:
    """Exact versions by name."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob(pattern))
    return {one_form(name): version for name, version in re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", text, re.M)}


@pytest.mark.long
@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_it_works_where_openais_clip_is_installed_too(wheel: zipfile.ZipFile, python: str, tmp_path: Path) -> None:
    """In a fresh environment, from any folder: the demo, a photo, and their `import clip` is theirs."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.is_file() or subprocess.run([uv, "venv", "-q", "-p", python, tmp_path / "env"], check=False).returncode:
        pytest.skip(f"needs uv and Python {python}")
    theirs = ["clip-anytorch", "setuptools<81"]  # OpenAI's code under that name, and what it imports
    home = tmp_path / "env/bin"
    subprocess.run([uv, "pip", "install", "-q", "-p", home / "python", str(wheel.filename), *theirs], check=True)

    def said(*command: str) -> str:
        ended = subprocess.run([home / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert "after the CRF" in said("pseudo-masks", "demo")
    scene = "output/toyworld/data/JPEGImages/toy_2025_0000.jpg"
    assert "house" in said("pseudo-masks", "segment", scene, "--labels", "house")
    code = (
        "from clip_pseudo_masks import Pipeline\n"
        f"print(Pipeline().segment({scene!r}, labels=['house']).mask.max())\n"
        "import clip; print(clip.__file__, 'RN50' in clip.available_models())"
    )
    assert said("python", "-W", "ignore", "-c", code).endswith("site-packages/clip/__init__.py True\n")
