"""The masks SegmentationClassAug and the split train_aug of PASCAL VOC 2012, where they are missing.

python -m scripts.prepare_voc12 --root VOC2012                                     # with SegmentationClassAug in it
python -m scripts.prepare_voc12 --root VOC2012 --sbd benchmark_RELEASE/dataset     # makes it from SBD's .mat files
"""

import argparse
import sys
from pathlib import Path

from cli import console
from cli.options import Parser
from common.errors import EXIT_INCOMPLETE, EXIT_OK, UserError

AUG = "SegmentationClassAug"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        f"VOC 2012 -> {AUG} and ImageSets/Segmentation/train_aug.txt where missing; nothing is overwritten.",
        f"train_aug: the ids of {AUG} that are not in val. Exit code 3: something is missing, and named.",
    )
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the folder VOC2012")
    parser.add_argument(
        "--sbd",
        type=Path,
        metavar="DIR",
        help=f"SBD, unpacked (with cls/*.mat): masks missing in {AUG} are made from it; not given: cls in --root",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from cli.preparing import make_masks
    from common.files import write_text
    from dataset.annotations import MaskJob
    from dataset.split_file import read_split
    from voc12.sbd import ARCHIVE, SPLIT_SIZES, check_root, find_sbd, mask_ids, read_source, sources

    root = check_root(args.root)
    aug, folder = root / AUG, root / "ImageSets" / "Segmentation"
    code = EXIT_OK
    mats = find_sbd(args.sbd or root)
    if mats is not None:
        files = sources(mats, root / "SegmentationClass")
        tally, _ = make_masks(MaskJob(AUG, lambda key: read_source(files[key]), aug, keep_any=True), files)
        code = tally.report(f"masks of {mats} and SegmentationClass", aug)
    elif args.sbd is not None:
        raise UserError(f"--sbd {args.sbd}: no .mat file in it or its cls; expected SBD's benchmark_RELEASE/dataset")
    masks = mask_ids(aug)
    val, train_aug = folder / "val.txt", folder / "train_aug.txt"
    # After failures train_aug would be incomplete, and the next run would take it for complete.
    if code == EXIT_OK and masks and val.is_file() and not train_aug.is_file():
        write_text(train_aug, "".join(f"{key}\n" for key in sorted(set(masks) - set(read_split(val)))))
        print(f"train_aug  written to {train_aug}")
    for name, expected in SPLIT_SIZES.items():
        path = folder / f"{name}.txt"
        if path.is_file():
            count = len(read_split(path))
            comparison = "as expected" if count == expected else f"expected {expected}: not the whole of VOC 2012"
            print(f"{name:<10} {count:>6} ids, {comparison}; {path}")
            continue
        remedy = f"it needs val and {AUG}; put that folder there, or give SBD's .mat files with --sbd DIR"
        print(f"{name:<10} missing: {remedy if name == 'train_aug' else f'{path} comes with {ARCHIVE}'}")
        code = EXIT_INCOMPLETE
    print(f"{AUG}: {len(masks)} masks, expected 12031")
    return code


if __name__ == "__main__":
    sys.exit(main())
