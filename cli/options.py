"""Command-line options that several stages share, spelled as in the reference.

Kept free of torch so that `--help` is quick.
"""

import argparse
import shlex
from pathlib import Path

from cli.datasets import FOLDER, SPECS

DATASETS = (*SPECS, FOLDER)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and defaults shown in the help."""

    def __init__(self, description: str, epilog: str = "") -> None:
        super().__init__(description=description, epilog=epilog, formatter_class=_Help)

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def add_data_options(parser: argparse.ArgumentParser, truth: bool) -> None:
    """--dataset, --img_root (alias --image_root), --split_file and, with `truth`, --gt_root."""
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
        help="text file, one image id a line; not given: ImageSets/Segmentation/train.txt beside the images, or, "
        "for a folder, all of its images",
    )
    if truth:
        group.add_argument(
            "--gt_root", type=Path, metavar="DIR", help="masks to score against; not given: SegmentationClass there"
        )


def add_own_data_options(parser: argparse.ArgumentParser) -> None:
    """--classes and --labels, for a user's own data."""
    group = parser.add_argument_group("own data")
    group.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="with --dataset folder: one class a line, `name` or `name: prompt one; prompt two`; below a line "
        "[background] what surrounds them (not given: VOC's list)",
    )
    group.add_argument(
        "--labels",
        metavar="LABELS",
        help="a file (`id name name` text, image,labels CSV, JSON Lines, COCO json), a folder of VOC XML, `folders` "
        "(the first folder of each image is its class), classes for every image as a,b, or `clip`: "
        "CLIP names them (TagCLIP, in generate_cams.py); not given: the data set's own",
    )


def data_options(args: argparse.Namespace) -> str:
    """The options that say which data, as they would be typed for the next command."""
    given = [("--dataset", args.dataset if args.dataset != "toyworld" else None), ("--img_root", args.img_root)]
    given += [("--split_file", args.split_file), ("--classes", args.classes), ("--labels", args.labels)]
    return "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in given if value)


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
    group = parser.add_argument_group("what is told")
    group.add_argument("--quiet", action="store_true", help="nothing on stdout, no progress bar; errors only")
    group.add_argument(
        "--log_json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="add one JSON line an event to FILE; without FILE on stderr, in place of all other text",
    )


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value


def not_negative(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 on")
    return value


def share(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return value


def output_dir(dataset: str, kind: str) -> Path:
    """Where a stage writes when it is not told: output/<dataset>/<kind>."""
    return Path("output") / dataset / kind
