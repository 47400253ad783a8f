"""What may import what, and what product code must not call; read from the sources, nothing is run."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from engine.ray_cluster import CODE
from tests.support import ROOT

# The floors of the house: a room may import rooms below its own floor, and itself. Rooms of one floor do not know each
# other, but for NEIGHBOURS.
FLOORS = (
    ("common",),
    ("clip", "dataset", "voc12", "coco14", "toyworld"),
    ("pipeline.steps", "pipeline.crf", "pipeline.methods", "pipeline.files", "zsseg", "segclip"),
    ("pipeline.stages", "training"),
    ("engine", "segmentor", "zsseg.training", "segclip.training", "toyworld.training", "report", "exports"),
    ("cli",),
    ("maskclip", "clip_pseudo_masks", "scripts", "generate_cams", "eval_cam", "eval_cam_with_crf", "benchmarks"),
)
NEIGHBOURS = {  # room: rooms of its floor that it may import
    "voc12": {"dataset"},
    "coco14": {"dataset"},
    "toyworld": {"dataset"},
    "pipeline.methods": {"pipeline.steps", "zsseg", "segclip"},
    "zsseg": {"pipeline.steps"},
    "segclip": {"pipeline.steps"},
    "pipeline.crf": {"pipeline.steps"},
    "pipeline.files": {"pipeline.steps"},
    "clip_pseudo_masks": {"scripts"},
    "benchmarks": {"maskclip", "scripts", "generate_cams", "eval_cam", "eval_cam_with_crf"},
}
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FOLDERS = tuple(sorted({room.split(".")[0] for room in FLOOR_OF if (ROOT / room.split(".")[0]).is_dir()}))
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))],
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


class WithoutTypes(ast.NodeTransformer):
    """Drops `if TYPE_CHECKING:` blocks, which never run."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if getattr(node.test, "id", "") == "TYPE_CHECKING" else self.generic_visit(node)


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports anywhere; `from a import b` gives `a` and `a.b`."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(WithoutTypes().visit(ast.parse(path.read_text(encoding="utf-8")))):
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


@cache
def room_of(module: str) -> str | None:
    """The room that a module lives in; None for one that is not ours."""
    return next((room for room in sorted(FLOOR_OF, key=len, reverse=True) if f"{module}.".startswith(f"{room}.")), None)


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def our_imports(path: Path) -> set[str]:
    return {module for module in imports(path) if room_of(module)}


def test_every_source_has_a_room() -> None:
    homeless = [name_of(path) for path in SOURCES if room_of(module_of(path)) is None]
    assert len(SOURCES) > 40 and homeless == ["pipeline/__init__.py"]


def may_import(room: str, other: str) -> bool:
    below = FLOOR_OF[other] < FLOOR_OF[room]
    return below or other == room or other in NEIGHBOURS.get(room, set())


def test_no_room_imports_upwards_or_sideways() -> None:
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in SOURCES
        if (room := room_of(module_of(path)))
        for module in sorted(our_imports(path))
        if not may_import(room, str(room_of(module)))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_step_imports_no_other_step_but_what_they_share() -> None:
    names = ("maps", "tensors", "kinds", "dense_attention", "pamr", "windows", "regions")
    shared = {f"pipeline.steps.{name}" for name in names}
    for path in (ROOT / "pipeline/steps").glob("*.py"):
        others = {module for module in our_imports(path) if module.startswith("pipeline.steps.")}
        assert all(any(f"{module}.".startswith(f"{one}.") for one in shared) for module in others), name_of(path)


def test_no_circle_of_imports() -> None:
    modules = {module_of(path): path for path in SOURCES}
    edges = {name: {module for module in our_imports(path) if module in modules} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name] - {name}):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


def test_no_test_imports_a_private_name() -> None:
    """A test that knows how a module is made inside fails when that changes, though all it does is right."""
    private = [
        f"{name_of(path)}: {node.module}.{alias.name}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and room_of(str(node.module))
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not private, "\n".join(private)


def test_no_header_claims_what_may_be_imported() -> None:
    """The table above is the one place that says it."""
    claims = [name_of(path) for path in SOURCES if "May import" in (ast.get_docstring(parsed(path)) or "")]
    assert not claims


def test_data_sets_can_be_read_without_torch() -> None:
    """Nor does anything that they import, import it."""
    paths = [path for path in of_folders("dataset", "voc12", "coco14", "toyworld") if "/training/" not in name_of(path)]
    modules = [name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in paths]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_toy_world_draws_without_torch() -> None:
    drawing = [path for path in of_folders("toyworld") if "/training/" not in name_of(path)]
    assert drawing and not any(imported_from(path, {"torch", "clip", "pipeline"}) for path in drawing)


@pytest.mark.parametrize("name", ["generate_cams.py", "eval_cam.py", "eval_cam_with_crf.py", "cli/options.py"])
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


def file_map() -> dict[str, str]:
    """What the README's file map says of each place."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("\n## File map")[1].split("```")[1].strip()
    lines = [re.split(r"\s{2,}", line, maxsplit=1) for line in block.splitlines()]
    return {name: words for names, words in lines for name in names.split(", ")}


def test_the_readmes_file_map_names_every_room_and_nothing_else() -> None:
    rooms = {room.replace(".", "/") for room in FLOOR_OF if not (ROOT / f"{room}.py").is_file()}
    there = {f"{room}/" for room in rooms if (ROOT / room).is_dir()} | {"tests/", "docs/", "notebooks/"}
    there |= {path.name for path in (*ROOT.glob("C*"), ROOT / "Dockerfile") if path.is_file()}
    assert set(file_map()) == there | {path.name for path in ROOT.glob("*.py")}


def test_ray_workers_get_all_the_code_that_they_import() -> None:
    """Nodes get these folders; only what trains is left out, which no worker does."""
    training = {"zsseg/training", "segclip/training", "toyworld/training"}
    sent = [path for path in of_folders(*CODE) if not any(name_of(path).startswith(room) for room in training)]
    needed = {(name_of(path), module) for path in sent for module in our_imports(path)}
    assert not {(name, module) for name, module in needed if module.split(".")[0] not in CODE}
