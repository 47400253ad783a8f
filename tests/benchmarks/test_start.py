"""The table of starting times: all commands, ratios to torch, the slowest --help."""

import pytest

from benchmarks.start import BARS, TORCH, every_command, measured, rows_of
from common.errors import UserError
from tests.support import ROOT


def test_every_command_is_there() -> None:
    commands = every_command()
    assert {"generate_cams.py", "eval_cam.py", "eval_cam_with_crf.py", "scripts.segment", "scripts.run"} <= {*commands}
    assert len(commands) == len({*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")}) - 1


def test_ratios_are_to_torch_and_the_slowest_help_is_told() -> None:
    seconds = {TORCH: 4.0, **dict.fromkeys(BARS, 6.0), "a --help": 0.1, "b --help": 0.2}
    first, *others, helps = rows_of(seconds)
    assert first["ratio"] == 1 and [row["ratio"] for row in others] == [1.5] * len(BARS)
    assert helps["seconds"] == 0.2 and helps["command"].startswith("b --help")


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(UserError, match=r"python -c .* ended with 3"):
        measured("-c", ["raise SystemExit(3)"])()
