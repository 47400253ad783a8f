"""The annotation files of a data set that scores no background -> masks, a split file, image-level labels.

python -m scripts.prepare_dense context59 --raw trainval --split_file val.txt --masks_out masks --labels_out labels.txt
python -m scripts.prepare_dense cityscapes --raw gtFine/val --masks_out masks --split_out val.txt
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from cli import console
from cli.datasets import SPECS, spec_of
from cli.options import Parser
from common.arguments import positive
from common.errors import UserError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Annotation files as distributed -> masks (class index, 255 not scored), split file, image-level labels.",
        "docs/datasets.md says what each data set needs. Masks that are there are kept, so that an interrupted run is "
        "continued by repeating it.",
    )
    parser.add_argument(
        "dataset", choices=[name for name in SPECS if spec_of(name).raw], help="whose annotations they are"
    )
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="the folder of the annotation files")
    parser.add_argument(
        "--split_file", type=Path, metavar="FILE", help="only these, one image id a line; not given: all there are"
    )
    parser.add_argument("--masks_out", type=Path, metavar="DIR", help="where the masks go, one <id>.png an image")
    parser.add_argument("--split_out", type=Path, metavar="FILE", help="where the image ids go, for --split_file")
    parser.add_argument("--labels_out", type=Path, metavar="FILE", help="where lines `id 0 5 7` go, for --labels")
    parser.add_argument("--num_workers", type=positive, default=2, help="files that are worked on side by side")
    parser.add_argument("--overwrite", action="store_true", help="make masks again that are there already")
    args = parser.parse_args(argv)
    if not any((args.masks_out, args.split_out, args.labels_out)):
        parser.error("nothing to do: expected --masks_out DIR, --split_out FILE, --labels_out FILE, or several of them")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from common.files import check_place, need_dir
    from dataset.annotations import MaskJob, annotation_of, find_files, prepare
    from dataset.voc_layout import read_split

    raw = spec_of(args.dataset).raw
    if raw is None:
        raise ValueError(f"{args.dataset}: no annotations to prepare")
    form, files = find_files(raw, need_dir(args.raw, "--raw", raw.holds))
    _check_masks_out(args)
    check_place(args.split_out, "--split_out", "split.txt")
    check_place(args.labels_out, "--labels_out", "labels.txt")
    ids = list(files) if args.split_file is None else read_split(args.split_file)
    _count(args.raw, form.ending, len(files), raw.counts)
    labels: dict[str, tuple[int, ...]] = {}
    job = MaskJob(args.dataset, partial(annotation_of, form, files), args.masks_out, args.overwrite)
    tally = console.Tally()

    def outcomes() -> Iterator[console.Outcome]:
        for outcome, classes in prepare(job, ids, args.num_workers):
            if outcome.status != "failed":
                labels[outcome.id] = classes
            yield outcome

    for outcome in console.progress(outcomes(), len(ids), "masks"):
        tally.add(outcome)
    _write_lists(args, labels)
    if args.masks_out is None:
        print("masks   not written: no --masks_out")
        return console.list_failures(tally.failures)
    return tally.report("masks", args.masks_out)


def _check_masks_out(args: argparse.Namespace) -> None:
    """Masks among the annotations would be taken for annotations by the next run."""
    from common.files import need_writable

    if args.masks_out is None:
        return
    if args.masks_out.resolve().is_relative_to(args.raw.resolve()):
        raise UserError(f"--masks_out {args.masks_out}: inside --raw {args.raw}; choose a folder outside of it")
    need_writable(args.masks_out, "--masks_out")


def _count(folder: Path, ending: str, count: int, expected: Mapping[str, int]) -> None:
    """Say what is there beside what the whole data set has."""
    whole = [f"{name} {number}" for name, number in expected.items()]
    known = [text for text, number in zip(whole, expected.values()) if number == count]
    verdict = f"as expected, {known[0]}" if known else f"expected {' or '.join(whole)}: not a whole split"
    print(f"files   {count} *{ending} in {folder}; {verdict}")


def _write_lists(args: argparse.Namespace, labels: Mapping[str, Sequence[int]]) -> None:
    """The split and the labels of the images that show a class at all; others can be neither labelled nor scored."""
    from common.files import write_text

    shown = {key: classes for key, classes in labels.items() if classes}
    if len(shown) < len(labels):
        print(f"images  {len(labels) - len(shown)} show none of the classes and are not listed")
    if args.split_out is not None:
        write_text(args.split_out, "".join(f"{key}\n" for key in shown))
        print(f"split   {len(shown)} ids in {args.split_out}")
    if args.labels_out is not None:
        write_text(args.labels_out, "".join(f"{' '.join([key, *map(str, value)])}\n" for key, value in shown.items()))
        print(f"labels  of {len(shown)} images in {args.labels_out}")


if __name__ == "__main__":
    sys.exit(main())
