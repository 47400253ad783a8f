"""Command-line options that several stages share, spelled as in the reference.

Kept free of torch so that `--help` is quick.
"""

import argparse
import difflib
import io
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from cli.commands import program, spelled
from cli.datasets import FOLDER, SPECS
from common.errors import UserError
from common.shard import HELP, Shard, shard_of

DATASETS = (*SPECS, FOLDER)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults other than None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help if action.default in (None, False) else super()._get_help_string(action)
        return text and spelled(text)

    def _format_text(self, text: str) -> str:
        return super()._format_text(spelled(text))


@dataclass(frozen=True)
class Pack:
    """Options that depend on others: they are shown and accepted when they apply, and refused otherwise.

    settings   a dataclass whose fields are options (common/arguments.py)
    goes_with  the options that they depend on, as typed
    applies    whether they apply, by what was typed: `method`, `proposals`, `votes`, `refine`, a text or the default,
               and `labels`, a list or None
    """

    title: str
    settings: type
    goes_with: str
    applies: Callable[[argparse.Namespace], bool]

    @classmethod
    def of(cls, option: str, value: str, settings: type, title: str = "") -> "Pack":
        """Options that go with `--OPTION VALUE`, an option that decides; see `applies`."""
        return cls(title or value, settings, f"--{option} {value}", lambda asked: getattr(asked, option) == value)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that suggest names, defaults in the help, and options that depend on others."""

    def __init__(self, description: str, epilog: str = "") -> None:
        super().__init__(program(), description=description, epilog=epilog, formatter_class=_Help)
        self.packs: list[Pack] = []

    def exit(self, status: int = 0, message: str | None = None) -> None:  # type: ignore[override]
        super().exit(status, message and spelled(message))

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            near = sorted(difflib.get_close_matches(str(value), choices), key=choices.index)
            meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            choose = f"{meant}choose from {', '.join(map(repr, choices))}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} ({choose})")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        typed = [str(part) for part in (sys.argv[1:] if args is None else args)]
        for pack in self.packs:  # one may bring the option that the next depends on
            if pack.applies(_deciding(typed, self)):
                add_settings(self, pack.title, pack.settings)
        if "_ARGCOMPLETE" in os.environ:
            from cli.completion import complete

            complete(self)
        result, unknown = self.parse_known_args(typed, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            needed = [pack.goes_with for pack in self.packs if flag in _flags(pack.settings)]
            if needed:
                self.exit(2, f"error: {flag} goes with {' or '.join(needed)} (see {self.prog} {needed[0]} --help)\n")
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return result


def parsed(
    parse: Callable[[list[str]], argparse.Namespace], words: Sequence[str], options: Mapping[str, Any]
) -> argparse.Namespace:
    """What a command's `parse` makes of words and of options by name, for callers from Python.

    None and False stand for options that are not given. Raises UserError where the command would end.
    """
    typed = list(words)
    for name, value in options.items():
        if isinstance(value, list | tuple):
            typed += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            typed.append(f"--{name}" if value is True else f"--{name}={value}")
    with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
        try:
            return parse(typed)
        except SystemExit as error:
            message = said.getvalue().strip().removeprefix("error: ").rpartition(" (see ")[0]
            only_help = "--help: shows the help of the command; expected options that set something"
            raise UserError(message or said.getvalue().strip() or only_help) from error


def _deciding(typed: Sequence[str], options: argparse.ArgumentParser) -> argparse.Namespace:
    """The values of the options that packs depend on; mistakes in them are reported later."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("method", "proposals", "votes"):
        parser.add_argument(f"--{name}", default=options.get_default(name))
    parser.add_argument("--refine", default=options.get_default("refine"))
    parser.add_argument("--labels", nargs="*")
    try:
        return parser.parse_known_args([part for part in typed if part not in ("-h", "--help")])[0]
    except (argparse.ArgumentError, SystemExit):
        return parser.parse_args([])


def _flag(setting: "Field[Any]") -> str:
    return setting.metadata.get("flag") or f"--{setting.name}"


def _flags(settings: type) -> set[str]:
    """Of the fields that are options."""
    return {_flag(setting) for setting in fields(settings) if setting.metadata}


def add_settings(
    parser: argparse.ArgumentParser | Any, title: str, settings: type, defaults: Mapping[str, Any] | None = None
) -> None:
    """Add a group with one option for each field of a settings dataclass that is not an option of the parser yet.

    defaults  by name of field, in place of the fields' own
    """
    group = parser.add_argument_group(title) if title else parser
    for setting in fields(settings):
        flag, facts = _flag(setting), setting.metadata
        if not facts or flag in parser._option_string_actions:
            continue
        default = (defaults or {}).get(setting.name, setting.default)
        if isinstance(setting.default, bool):
            group.add_argument(flag, action="store_true", help=facts["help"])
            continue
        kind: dict[str, Any] = {"choices": facts["choices"]} if facts["choices"] else {"type": facts["type"]}
        if facts["many"]:
            kind["nargs"] = "+" if facts["many"] is True else facts["many"]
            default = None if default is None else list(default)
        if facts["metavar"]:
            kind["metavar"] = facts["metavar"]
        group.add_argument(flag, default=default, help=facts["help"], **kind)


def settings_from(args: argparse.Namespace, settings: type, **others: Any) -> Any:
    """An instance of a settings dataclass with the values of its options; other fields keep their defaults."""
    values = dict(others)
    for setting in fields(settings):
        name = _flag(setting)[2:]
        if setting.metadata and hasattr(args, name) and setting.name not in values:
            value = getattr(args, name)
            if setting.default is True:  # its flag turns it off
                value = not value
            values[setting.name] = tuple(value) if isinstance(value, list) else value
    return settings(**values)


def add_data_options(parser: argparse.ArgumentParser, truth: bool, values: bool = True) -> None:
    """--dataset, --img_root (alias --image_root), --split_file, --classes, --labels and, with `truth`, --gt_root.

    values  with `truth`, --mask_values and --mask_suffix too
    """
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=DATASETS, default="toyworld", help="whose names, prompts and layout")
    group.add_argument(
        "--img_root",
        "--image_root",
        type=Path,
        metavar="DIR",
        help="folder of images (VOC: JPEGImages or the folder above it); toyworld makes its own when not given",
    )
    group.add_argument(
        "--split_file",
        type=Path,
        metavar="FILE",
        help="text file, one image id or path a line (also irn's lists and VOC's of a class); not given: "
        "ImageSets/Segmentation/train.txt beside the images, or, for a folder, all of its images",
    )
    if truth:
        group.add_argument(
            "--gt_root", type=Path, metavar="DIR", help="masks to score against; not given: SegmentationClass there"
        )
        if values:
            _add_mask_options(group)
    group = parser.add_argument_group("own data")
    group.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="with --dataset folder: one class a line, `name` or `name: prompt one; prompt two`; below a line "
        "[background] the words for what surrounds them (without that line: VOC's words)",
    )
    group.add_argument(
        "--labels",
        metavar="LABELS",
        help="a file (`id name name` text, a table, JSON, COCO, CVAT, Label Studio and others: docs/labels.md), a "
        "folder (VOC XML, labelme, YOLO), `folders` (the first folder of each image is its class), classes for every "
        "image as a,b, or `clip`: CLIP names them (TagCLIP, in generate_cams.py); not given: the data set's own",
    )


def _add_mask_options(group: Any) -> None:
    """--mask_values, --mask_suffix, for masks that this project did not write."""
    group.add_argument(
        "--mask_values",
        nargs="+",
        metavar="VALUES",
        help="what the values or colours of your masks stand for: 0,255=0,1 (raw values and mask values), 255=cup, "
        "#ff0000=cup, a palette (voc, coco-stuff, ade20k, cityscapes), or a file with lines such as `255,0,0 cup`; "
        "masks that this project wrote are read as they are",
    )
    group.add_argument(
        "--mask_suffix",
        default=".png",
        metavar="SUFFIX",
        help="what your masks are called behind the image's id, as in _mask.png",
    )


def data_options(args: argparse.Namespace) -> str:
    """The options of the data, as typed for the next command."""
    values = [("--dataset", args.dataset if args.dataset != "toyworld" else None), ("--img_root", args.img_root)]
    values += [("--split_file", args.split_file), ("--classes", args.classes), ("--labels", args.labels)]
    return "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in values if value)


def add_cam_dir(parser: argparse.ArgumentParser, help_text: str) -> None:
    """--cam_out_dir, output/<dataset>/cams when not given."""
    parser.add_argument("--cam_out_dir", type=Path, metavar="DIR", help=f"{help_text}; not given: output/DATASET/cams")


def add_absent(parser: argparse.ArgumentParser) -> None:
    """--absent, for the commands that score."""
    parser.add_argument(
        "--absent",
        choices=("truth", "union"),
        default="truth",
        help="classes that the ground truth never shows: left out of the means (truth, as in CLIP-ES), or counted with "
        "IoU 0 where they are predicted (union, as in mmsegmentation and detectron2)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there as JSON too")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """--quiet and --log_json, for cli/run_log.py."""
    group = parser.add_argument_group("output")
    group.add_argument("--quiet", action="store_true", help="nothing on stdout, no progress bar; errors only")
    group.add_argument(
        "--log_json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="add one JSON line an event to FILE; without FILE on stderr, in place of all other text",
    )


def add_shard(parser: argparse.ArgumentParser) -> None:
    """--shard, for commands that several processes or machines run on one list."""
    parser.add_argument("--shard", metavar="I/N", help=HELP)


def shard_from(args: argparse.Namespace) -> Shard:
    """This command's part of the list; raises UserError for an invalid one."""
    return shard_of(getattr(args, "shard", None), os.environ)


def output_dir(dataset: str, kind: str) -> Path:
    """The default folder of a stage: output/<dataset>/<kind>."""
    return Path("output") / dataset / kind
