"""Options shared by the commands: types, one-line errors, spellings of the reference."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.options import Pack, Parser, add_cam_dir, add_data_options, add_json, add_settings, output_dir, settings_from
from common.arguments import option, positive, share


@pytest.fixture
def parser() -> Parser:
    parser = Parser("what it does")
    add_data_options(parser, truth=True)
    add_cam_dir(parser, "where")
    add_json(parser)
    return parser


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--img_root", "a"], "img_root", Path("a")),
        (["--image_root", "a"], "img_root", Path("a")),
        (["--split_file", "s"], "split_file", Path("s")),
        (["--gt_root", "g"], "gt_root", Path("g")),
        (["--cam_out_dir", "c"], "cam_out_dir", Path("c")),
        (["--json", "j"], "json", Path("j")),
        ([], "dataset", "toyworld"),
        (["--dataset", "voc12"], "dataset", "voc12"),
    ],
)
def test_options(parser: Parser, argv: list[str], name: str, value: object) -> None:
    assert getattr(parser.parse_args(argv), name) == value


@pytest.mark.parametrize(
    "argv",
    [
        ["--dataset", "voc"],
        ["--no_such"],
        ["--json"],
        *(["--num_workers", text] for text in ("0", "-3", "1.5", "x")),
        *(["--share", text] for text in ("1.01", "-0.1", "nan")),
    ],
)
def test_mistakes_are_one_line(parser: Parser, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser.add_argument("--num_workers", type=positive)
    parser.add_argument("--share", type=share)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(argv)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and argv[0].strip("-") in err
    found = parser.parse_args(["--num_workers", "12", "--share", "0.95"])
    assert (found.num_workers, found.share) == (12, 0.95)


@pytest.mark.parametrize(("typed", "near"), [("voc", "'voc12' or 'voc20'"), ("ade", "'ade20k'"), ("x", "")])
def test_a_choice_that_is_none_gets_a_near_one(
    parser: Parser, typed: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["--dataset", typed])
    meant = f"did you mean {near}? " if near else ""
    assert f"--dataset: invalid choice: {typed!r} ({meant}choose from 'toyworld', " in capsys.readouterr().err


# --- settings as options --------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """hidden is no option."""

    speed: float = option(0.5, "how fast", flag="--top_speed")
    sides: tuple[int, ...] | None = option(None, "of what", type=positive, many=True)
    form: str = option("round", "its form", choices=("round", "square"))
    loud: bool = option(False, "noise")
    hidden: int = 7


def test_a_settings_dataclass_is_a_group_of_options(parser: Parser, capsys: pytest.CaptureFixture[str]) -> None:
    add_settings(parser, "machine", Settings, {"form": "square"})
    plain, asked = parser.parse_args([]), parser.parse_args("--top_speed 1 --sides 3 4 --form round --loud".split())
    assert settings_from(plain, Settings) == Settings(form="square")
    assert settings_from(asked, Settings, hidden=9) == Settings(1.0, (3, 4), "round", True, 9)
    with pytest.raises(SystemExit):
        parser.parse_args(["--form", "flat"])
    assert "invalid choice: 'flat'" in capsys.readouterr().err


def test_options_that_go_with_others(parser: Parser, capsys: pytest.CaptureFixture[str]) -> None:
    """They are taken when they apply; else it is said what they go with."""
    parser.add_argument("--method", choices=("one", "two"), default="one")
    parser.packs.append(Pack("machine", Settings, "--method two", lambda asked: asked.method == "two"))
    parser.packs.append(Pack("other", Settings, "--labels clip", lambda asked: asked.labels == ["clip"]))
    assert "top_speed" not in vars(parser.parse_args([]))
    for argv in (["--top_speed", "1"], ["--method", "one", "--top_speed=1"], ["--labels", "a", "--top_speed", "1"]):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(argv)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.startswith("error: --top_speed goes with --method two or --labels clip (")
    assert parser.parse_args(["--method=two", "--labels", "clip", "--top_speed", "1"]).top_speed == 1


def test_default_output_folder() -> None:
    assert output_dir("voc12", "cams") == Path("output/voc12/cams")
