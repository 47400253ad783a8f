"""Annotations of a data set with a seen/unseen split -> masks of all, of the seen and of the unseen classes, counts.

python -m scripts.prepare_zsseg voc20 --raw VOC2012/SegmentationClassAug --split train=train.txt val=val.txt \
    --out annotations_detectron2
python -m scripts.prepare_zsseg cocostuff --raw stuffthingmaps --out stuffthingmaps_detectron2
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.datasets import SPECS, spec_of
from cli.options import Parser
from cli.preparing import compared, make_masks
from common.arguments import positive
from common.errors import UserError
from common.files import need_dir, need_writable, write_text

if TYPE_CHECKING:
    import numpy as np

    from dataset.spec import DatasetSpec, RawForm


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Annotation files as distributed -> NAME, NAME_base and NAME_novel of every split NAME, each with a file "
        "NAME_label_count.json of the classes in each mask.",
        "NAME holds class indices. NAME_base holds the seen classes alone, NAME_novel the unseen ones, both counted "
        "from 0; all else is 255. A mask of 255 alone is not written. Masks that are there are kept, so that an "
        "interrupted run is continued by repeating it.",
    )
    specs = {name: spec_of(name) for name in SPECS}
    choices = [name for name, spec in specs.items() if spec.raw and spec.unseen and not spec.has_background]
    parser.add_argument("dataset", choices=choices, help="data set of the annotations")
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="the folder of the annotation files")
    parser.add_argument(
        "--split",
        nargs="+",
        type=_split,
        metavar="NAME=FILE",
        help="names of splits and the files of their image ids; not given: each folder in --raw is one",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the folders of masks go")
    parser.add_argument("--num_workers", type=positive, default=2, help="files that are processed at a time")
    parser.add_argument("--overwrite", action="store_true", help="make masks again that are there already")
    return parser.parse_args(argv)


def _split(text: str) -> tuple[str, Path]:
    """argparse type of NAME=FILE."""
    name, sign, file = text.partition("=")
    if not sign or not file or not name.replace("_", "").replace("-", "").isalnum():
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=FILE, such as train=train.txt")
    return name, Path(file)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    spec = spec_of(args.dataset)
    assert spec.raw is not None
    need_dir(args.raw, "--raw", spec.raw.holds)
    if args.out.resolve().is_relative_to(args.raw.resolve()):  # the next run would take the masks for annotations
        raise UserError(f"--out {args.out}: inside --raw {args.raw}; choose a folder outside of it")
    need_writable(args.out, "--out")
    splits, total, failures = _splits(args, spec), 0, dict[str, str]()
    for name, (form, files) in splits.items():
        form, total = _tolerant(form), total + len(files)
        for part, classes in _parts(spec).items():
            folder = args.out / f"{name}{part}"
            failures |= _make(args, spec, form, files, folder, classes)
    print(f"files   {total} in {args.raw}; {compared(total, spec.raw.counts)}")
    return console.list_failures(sorted(failures.items()))


def _splits(args: argparse.Namespace, spec: "DatasetSpec") -> "dict[str, tuple[RawForm, dict[str, Path]]]":
    """The form and the annotation files by image id of every split. Raises UserError where there is none."""
    from dataset.annotations import find_files
    from dataset.split_file import read_split

    raw = spec.raw
    assert raw is not None
    if args.split is None:
        folders = [path for path in sorted(args.raw.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        if not folders:
            raise UserError(f"--raw {args.raw}: no folders in it; name the splits, as --split train=FILE val=FILE")
        return {folder.name: find_files(raw, folder) for folder in folders}
    form, files = find_files(raw, args.raw)
    return {
        name: (form, {id: files.get(id, args.raw / f"{id}{form.ending}") for id in read_split(path)})
        for name, path in args.split
    }


def _tolerant(form: "RawForm") -> "RawForm":
    """The form where numbers that the data set skips between its classes are not scored, as in the published tools."""
    from dataset.spec import IGNORE_INDEX

    last = max(value for value, index in form.values.items() if index != IGNORE_INDEX)
    return replace(form, values={**dict.fromkeys(range(last), IGNORE_INDEX), **form.values})


def _parts(spec: "DatasetSpec") -> dict[str, list[int]]:
    """The classes of each part of a split, by the ending of its folder."""
    return {"": list(range(len(spec.classes))), "_base": list(spec.seen), "_novel": sorted(spec.unseen)}


def _make(
    args: argparse.Namespace,
    spec: "DatasetSpec",
    form: "RawForm",
    files: Mapping[str, Path],
    folder: Path,
    classes: list[int],
) -> dict[str, str]:
    """Make a folder of masks and the file of its labels; returns why files failed, by id."""
    from dataset.annotations import MaskJob

    read = partial(_mask, form, files, classes)
    job = MaskJob(f"{spec.name} {len(classes)}", read, folder, args.overwrite, False, files, "--out", skip_empty=True)
    tally, labels = make_masks(job, files, args.num_workers)
    counts = {f"{image_id}.png": list(values) for image_id, values in labels.items() if values}
    counts_file = folder.with_name(f"{folder.name}_label_count.json")
    write_text(counts_file, json.dumps(counts) + "\n")
    print(f"masks   {len(counts)} of {len(classes)} classes in {folder}, labels in {counts_file}")
    return dict(tally.failures)


def _mask(form: "RawForm", files: Mapping[str, Path], classes: list[int], image_id: str) -> "np.ndarray":
    """(H, W) uint8: the place of a pixel's class in `classes`, or 255."""
    import numpy as np

    from dataset.annotations import read_annotation
    from dataset.spec import IGNORE_INDEX

    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[classes] = range(len(classes))
    return table[read_annotation(form, files[image_id])]


if __name__ == "__main__":
    sys.exit(main())
