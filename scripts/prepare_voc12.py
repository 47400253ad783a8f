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
        f"train_aug: the ids of {AUG} that are not in val. Exit code 3: what is missing is said.",
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
    from common.files import write_text
    from dataset.voc_layout import read_split
    from voc12.sbd import SEGMENTATION, check_root, mask_ids

    folder = check_root(args.root) / SEGMENTATION
    code = _convert(args.sbd, args.root)
    masks = mask_ids(args.root / AUG)
    val, train_aug = folder / "val.txt", folder / "train_aug.txt"
    # A train_aug of half the masks would be taken for a whole one by the next run.
    if code == EXIT_OK and masks and val.is_file() and not train_aug.is_file():
        ids = sorted(set(masks) - set(read_split(val)))
        write_text(train_aug, "".join(f"{key}\n" for key in ids))
        print(f"train_aug  written to {train_aug}")
    return max(code, _report(folder, len(masks)))


def _convert(sbd: Path | None, root: Path) -> int:
    """Fill SegmentationClassAug from SBD's files, where there are any; 3 if some could not be read."""
    from voc12.sbd import find_sbd, read_source, sources

    mats = find_sbd(sbd or root)
    if mats is None and sbd is not None:
        raise UserError(f"--sbd {sbd}: no .mat file in it or its cls; expected SBD's benchmark_RELEASE/dataset")
    if mats is None:
        return EXIT_OK
    from cli.preparing import make_masks
    from dataset.annotations import MaskJob

    found = sources(mats, root / "SegmentationClass")
    tally, _ = make_masks(MaskJob(AUG, lambda key: read_source(found[key]), root / AUG, keep_any=True), found)
    return tally.report(f"masks of {mats} and SegmentationClass", root / AUG)


def _report(folder: Path, masks: int) -> int:
    """Print the number of ids of every split beside the expected one; 3 if a split is missing."""
    from dataset.voc_layout import read_split
    from voc12.sbd import ARCHIVE, EXPECTED, EXPECTED_AUG_MASKS

    code = EXIT_OK
    for name, expected in EXPECTED.items():
        path = folder / f"{name}.txt"
        if path.is_file():
            count = len(read_split(path))
            verdict = "as expected" if count == expected else f"expected {expected}: not the whole of VOC 2012"
            print(f"{name:<10} {count:>6} ids, {verdict}; {path}")
            continue
        remedy = f"it needs val and {AUG}; put that folder there, or give SBD's .mat files with --sbd DIR"
        print(f"{name:<10} missing: {remedy if name == 'train_aug' else f'{path} comes with {ARCHIVE}'}")
        code = EXIT_INCOMPLETE
    print(f"{AUG}: {masks} masks, expected {EXPECTED_AUG_MASKS}")
    return code


if __name__ == "__main__":
    sys.exit(main())
