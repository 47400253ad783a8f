"""Files that stand beside the code say what the code says: versions, the container."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.version import VERSION
from tests.support import ROOT


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version() -> None:
    """The changelog's newest version, and the citation's, are the code's."""
    versions = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", text("CHANGELOG.md"), re.M)
    assert versions[0] == VERSION and versions == sorted(versions, key=lambda one: [*map(int, one.split("."))])[::-1]
    assert yaml.safe_load(text("CITATION.cff"))["version"] == VERSION
    assert VERSION not in text("pyproject.toml")


def test_every_method_is_cited() -> None:
    """With the paper whose author and year its file names."""
    papers = yaml.safe_load(text("CITATION.cff"))["references"]
    known = {(paper["authors"][0]["family-names"], str(paper["year"])) for paper in papers}
    for path in (ROOT / "pipeline/methods").glob("*.py"):
        named = re.match(r'"""[^\n]*?\((\w+) et al\., (?:[A-Z][A-Za-z]+ )?(\d{4})\)', path.read_text(encoding="utf-8"))
        assert named is None or named.groups() in known, path.name


def test_the_container_gets_what_it_installs() -> None:
    """Nothing that the wheel is made of is kept back, and every file that is named is there."""
    ignored = {line for line in text(".dockerignore").splitlines() if line and not line.startswith("#")}
    packed = re.findall(r'"([\w.]+)"', text("pyproject.toml").split("only-include = [")[1].split("]")[0])
    assert len(packed) > 10 and not ignored & {*packed, "README.md", "LICENSE", "pyproject.toml"}
    named = re.findall(r"requirements[\w-]*\.txt", text("Dockerfile"))
    assert named and all((ROOT / name).is_file() for name in named)
    after_last_stage = text("Dockerfile").rpartition("\nFROM ")[2]
    assert "\nUSER 1000\n" in after_last_stage and "ADD " not in after_last_stage


def test_the_dockerfile_has_no_lint() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("needs hadolint (requirements-dev.txt)")
    assert subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False).stdout == ""
