"""The command `pseudo-masks`: its table, its mistakes, and how commands are named in messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clip_pseudo_masks.cli.commands import spelled  # type: ignore[import-not-found]
from clip_pseudo_masks.common.errors import UserError  # type: ignore[import-not-found]
from clip_pseudo_masks.common.package import EXTRAS, USERS, missing_package  # type: ignore[import-not-found]

from cli.commands import COMMANDS
from cli.commands import spelled as spelled_in_place
from clip_pseudo_masks import console
from tests.support import ROOT


def test_every_command_is_in_the_table() -> None:
    scripts = {f"scripts.{path.stem}" for path in (ROOT / "scripts").glob("[!_]*.py")}
    assert {module for module, _ in COMMANDS.values()} == scripts | {path.stem for path in ROOT.glob("*.py")}


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []])
def test_the_list_of_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(argv) == (0 if argv else 2)
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS) and max(map(len, out.splitlines())) <= 120


def test_the_parts_of_prepare(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["prepare"]) == 2 and console.main(["prepare", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.count("  prepare ") == 8 and "  cams " not in out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["cms"], "error: cms: no such command; did you mean cams?"),
        (["xyz"], "error: xyz: no such command; expected one of demo, segment"),
        (["prepare", "voc13", "--root", "x"], "error: prepare voc13: no such command; did you mean prepare voc12?"),
        (["cams", "--foo"], "error: unrecognized arguments: --foo (see pseudo-masks cams --help)"),
        (["cams", "--ensemble", "1"], "--method zsseg (see pseudo-masks cams --method zsseg --help)"),
        (["prepare", "voc12"], "(see pseudo-masks prepare voc12 --help)"),
        (["masks", "--cam_out_dir", "none"], "expected the output of pseudo-masks cams"),
        (["run", "--labels", "clip", "--shard", "0/2"], "first `pseudo-masks tag`"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    world: Path,
    weights: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    if argv[0] in ("masks", "run"):
        argv = [*argv, "--dataset", "voc12", "--img_root", str(world)]
    if argv[0] == "run":
        argv += ["--model", str(weights), "--device", "cpu"]
    try:
        code = console.main(argv)
    except SystemExit as ended:
        code = int(str(ended.code))
    err = capsys.readouterr().err
    assert code == 2 and expected in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("next: python generate_cams.py --labels a", "next: pseudo-masks cams --labels a"),
        ("run eval_cam_with_crf.py first, then eval_cam.py", "run pseudo-masks masks first, then pseudo-masks scores"),
        ("python -m scripts.prepare_coco14 makes one", "pseudo-masks prepare coco14 makes one"),
        ("(scripts.learn_prompts) or -m nothing", "(pseudo-masks learn-prompts) or -m nothing"),
        ("torchrun N -m scripts.train_zsseg ...", "torchrun N -m clip_pseudo_masks train-zsseg ..."),
        ("bash scripts/run_voc12.sh, my_eval_cam.py, scripts.unknown", None),
    ],
)
def test_commands_in_messages(text: str, expected: str | None) -> None:
    assert spelled(text) == (expected or text) and spelled_in_place(text) == text


def test_no_help_names_a_file_of_the_tree(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, with the name under which they are called."""
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            console.main([*name.split(), "--help"])
        out = " ".join(capsys.readouterr().out.split())
        assert out.startswith(f"usage: pseudo-masks {name} ")
        assert "python -m" not in out and "scripts." not in out and "generate_cams" not in out, name


def test_a_missing_package_is_named_with_its_extra() -> None:
    error = missing_package(ModuleNotFoundError("No module named 'skimage'", name="skimage.segmentation"))
    assert isinstance(error, UserError) and str(error).endswith("pip install 'clip-pseudo-masks[zsseg]'")
    error = missing_package(ModuleNotFoundError(name="transformers"))
    assert str(error).endswith("pip install 'clip-pseudo-masks[hub]'")
    assert missing_package(ModuleNotFoundError(name="clip_pseudo_masks.nothing")) is None
    error = missing_package(ModuleNotFoundError(name="numpy"))  # the Python of another environment
    assert f"numpy, which is not installed for {sys.executable}: pip install " in str(error)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{extra} = [" in text for extra in {*EXTRAS.values(), *USERS.values()})


@pytest.mark.parametrize("user", USERS)
def test_a_missing_package_is_named_with_the_extra_of_what_needs_it(user: str) -> None:
    assert (ROOT / f"{user.replace('.', '/')}.py").is_file()
    with pytest.raises(ModuleNotFoundError) as raised:
        exec("raise ModuleNotFoundError(name='transformers')", {"__name__": f"clip_pseudo_masks.{user}"})
    assert str(missing_package(raised.value)).endswith(f"[{USERS[user]}]'")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pseudo-masks sc", {"scores"}),
        ("pseudo-masks prepare v", {"voc12"}),
        ("pseudo-masks cams --meth", {"--method"}),
        ("pseudo-masks cams --method sc", {"sclip", "sc-clip"}),
        ("pseudo-masks cams --method zsseg --region_f", {"--region_fill"}),  # only this method has it
        ("pseudo-masks prepare dense ci", {"cityscapes"}),
    ],
)
def test_completion(line: str, expected: set[str], tmp_path: Path) -> None:
    """As bash asks for it: the answer goes to file descriptor 8, or to a file."""
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    subprocess.run([sys.executable, "-m", "clip_pseudo_masks"], cwd=ROOT, env={**os.environ, **asked}, check=True)
    assert {word.strip() for word in answer.read_text().split("\n")} == expected
