"""What may import what, and what product code must not call; read from the sources, nothing is run."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

FOLDERS = tuple(
    "clip common dataset pipeline engine segmentor maskclip voc12 coco14 dense toyworld scripts benchmarks".split()
)
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))],
)
STEPS = {"cam", "affinity", "crf", "masks", "scores", "storage", "tta"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


class WithoutTypes(ast.NodeTransformer):
    """Drops `if TYPE_CHECKING:` blocks, which never run."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if getattr(node.test, "id", "") == "TYPE_CHECKING" else self.generic_visit(node)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(WithoutTypes().visit(parsed(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_from(path: Path, packages: set[str]) -> set[str]:
    return {module for module in imports(path) if module.split(".")[0] in packages}


def of_folders(*folders: str) -> list[Path]:
    return [path for path in SOURCES if name_of(path).split("/")[0] in folders]


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 40 and {path.stem for path in of_folders("pipeline")} >= STEPS


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_step_imports_no_other_step(step: str) -> None:
    found = imported_from(ROOT / "pipeline" / f"{step}.py", {"pipeline"})
    assert not {module.split(".")[1] for module in found if "." in module} & STEPS
    assert not any(module.startswith("pipeline.stage_") for module in found)


NETWORKS = {"torch", "torchvision", "open_clip", "clip"}
DATA_SETS = {"voc12", "coco14", "dense", "toyworld"}
ABOVE = {"engine", "segmentor", "maskclip", "scripts", "benchmarks"}


@pytest.mark.parametrize(
    ("folder", "others", "but"),
    [
        ("clip", {"dataset", "pipeline", *ABOVE, *DATA_SETS}, set()),
        ("common", {"clip", "dataset", "pipeline", *ABOVE, *DATA_SETS}, set()),
        ("dataset", {*NETWORKS, "pipeline", *ABOVE}, set()),
        ("voc12", {*NETWORKS, "pipeline", "scripts"}, {"pipeline.masks"}),
        ("coco14", {*NETWORKS, "pipeline", "scripts"}, {"pipeline.masks"}),
        ("dense", {*NETWORKS, "pipeline", "scripts"}, {"pipeline.masks"}),
        ("pipeline", {*ABOVE, *DATA_SETS}, set()),
        ("engine", {"scripts", "benchmarks", "segmentor", "maskclip", *DATA_SETS}, set()),
    ],
)
def test_a_folder_imports_only_what_lies_before_it(folder: str, others: set[str], but: set[str]) -> None:
    for path in of_folders(folder):
        found = {
            module
            for module in imported_from(path, others)
            if ".".join(module.split(".")[:2]) not in but | {"pipeline"}
        }
        assert not found, f"{name_of(path)} imports {found}"


def test_data_sets_can_be_read_without_torch() -> None:
    """Nor does anything that they import, import it."""
    paths = [path for path in of_folders("dataset", *DATA_SETS) if "training" not in path.parts]
    modules = [name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in paths]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_toy_world_draws_without_torch() -> None:
    drawing = [path for path in of_folders("toyworld") if "training" not in path.parts]
    assert drawing and not any(imported_from(path, {"torch", "clip", "pipeline"}) for path in drawing)


@pytest.mark.parametrize("name", ["generate_cams.py", "eval_cam.py", "eval_cam_with_crf.py", "common/options.py"])
def test_parsing_the_command_line_imports_nothing_heavy(name: str) -> None:
    """At the top of the file, that is; --help must be quick."""
    top = [node for node in parsed(ROOT / name).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {getattr(node, "module", None) or node.names[0].name for node in top}
    heavy = {"torch", "numpy", "cv2", "PIL", "lxml", "open_clip", "clip", "pipeline", "dataset"}
    assert not {module for module in modules if module.split(".")[0] in heavy}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def calls(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            given = {word.arg: getattr(word.value, "value", "?") for word in node.keywords if word.arg}
            yield dotted(node.func), given


def dangerous(name: str, given: dict[str, object]) -> bool:
    return (
        name
        in {
            "eval",
            "exec",
            "pickle.load",
            "pickle.loads",
            "os.system",
            "torch.jit.load",
            "marshal.loads",
            "joblib.load",
        }
        or (name == "torch.load" and given.get("weights_only") is not True)
        or (name in {"np.load", "numpy.load"} and given.get("allow_pickle", False) is not False)
        or given.get("shell") is True
    )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_call_runs_code_from_a_file(path: Path) -> None:
    assert not [name for name, given in calls(path) if dangerous(name, given)]


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "pickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)",
     "torch.jit.load(f)", "subprocess.run(x, shell=True)"],
)  # fmt: skip
def test_the_check_above_sees_dangerous_calls(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(line)
    assert any(dangerous(*call) for call in calls(tmp_path / "x.py"))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_path_of_one_machine(path: Path) -> None:
    assert not re.search(
        r"""["'(\s](/home/|/root/|/work/|/Users/|/mnt/|[A-Z]:\\\\)""", path.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert path.stat().st_size == 0 or ast.get_docstring(parsed(path))


def file_map() -> list[str]:
    """The first words of the lines of README's file map: the code block that lists generate_cams.py and clip/."""
    readme = ROOT / "README.md"
    blocks = re.findall(r"```[a-z]*\n(.*?)```", readme.read_text(encoding="utf-8"), re.S) if readme.is_file() else []
    maps = [block for block in blocks if "generate_cams.py " in block and re.search(r"^\s*clip/", block, re.M)]
    return maps[0].splitlines() if maps else []


def test_every_line_of_the_readmes_file_map_exists() -> None:
    lines = file_map()
    if not lines:
        pytest.skip("README.md has no file map yet")
    folder, missing = ROOT, []
    for line in filter(str.strip, lines):
        base = folder if line[0].isspace() else ROOT
        names = line.strip().split("  ")[0].split()
        missing += [f"{base.name}/{name}" for name in names if not (base / name).exists()]
        if base == ROOT and names[0].endswith("/"):
            folder = ROOT / names[0]
    assert not missing
