"""Options shared by the commands: types, one-line errors, spellings of the reference."""

import argparse
from pathlib import Path

import pytest

from cli.options import Parser, add_cam_dir, add_data_options, add_json, output_dir
from common.arguments import positive, share


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
    "argv", [["--dataset", "voc"], ["--no_such"], ["--json"], ["--num_workers", "0"], ["--share", "2"]]
)
def test_mistakes_are_one_line(parser: Parser, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser.add_argument("--num_workers", type=positive)
    parser.add_argument("--share", type=share)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(argv)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and argv[0].strip("-") in err


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("12", 12), ("0", None), ("-3", None), ("1.5", None), ("x", None)]
)
def test_positive(text: str, value: int | None) -> None:
    if value is None:
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            positive(text)
    else:
        assert positive(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0.0), ("1", 1.0), ("0.95", 0.95), ("1.01", None), ("-0.1", None), ("nan", None)]
)
def test_share(text: str, value: float | None) -> None:
    if value is None:
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            share(text)
    else:
        assert share(text) == value


def test_default_output_folder() -> None:
    assert output_dir("voc12", "cams") == Path("output/voc12/cams")
