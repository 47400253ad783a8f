"""The split files train, val, trainval and train_aug of PASCAL VOC 2012, where they are missing.

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
        "VOC 2012 -> ImageSets/Segmentation/{train,val,trainval,train_aug}.txt where missing; nothing is overwritten.",
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
    from voc12.splits import check_root, derived_splits, mask_ids, read_splits

    root = check_root(args.root)
    there = read_splits(root)
    code = _convert(args.sbd, root)
    # A train_aug of half the masks would be taken for a whole one by the next run.
    aug_masks = mask_ids(root / AUG) if code == EXIT_OK else []
    made = derived_splits(there, mask_ids(root / "SegmentationClass"), aug_masks)
    return max(code, _write(root, there, made, aug_masks))


def _convert(sbd: Path | None, root: Path) -> int:
    """Fill SegmentationClassAug from SBD's files, where there are any; 3 if some could not be read."""
    from voc12.splits import find_sbd

    mats = find_sbd(sbd or root)
    if mats is None and sbd is not None:
        raise UserError(f"--sbd {sbd}: no .mat file in it or its cls; expected SBD's benchmark_RELEASE/dataset")
    if mats is None:
        return EXIT_OK
    from cli.preparing import make_masks
    from dataset.annotations import MaskJob
    from voc12.sbd import read_source, sources

    found = sources(mats, root / "SegmentationClass")
    tally, _ = make_masks(MaskJob(AUG, lambda key: read_source(found[key]), root / AUG, keep_any=True), found)
    return tally.report(f"masks of {mats} and SegmentationClass", root / AUG)


def _write(root: Path, there: dict[str, list[str]], made: dict[str, list[str]], aug_masks: list[str]) -> int:
    """Write the new split files, and print every count beside the expected one."""
    from common.files import write_text
    from voc12.splits import ARCHIVE, EXPECTED, EXPECTED_AUG_MASKS, SEGMENTATION

    missing = False
    for name, expected in EXPECTED.items():
        path = root / SEGMENTATION / f"{name}.txt"
        if name in made:
            write_text(path, "".join(f"{key}\n" for key in made[name]))
        ids = made.get(name, there.get(name))
        if ids is None:
            remedy = f"it needs val and {AUG}; put that folder there, or give SBD's .mat files with --sbd DIR"
            print(f"{name:<10} missing: {remedy if name == 'train_aug' else f'{path} comes with {ARCHIVE}'}")
            missing = True
            continue
        verdict = "as expected" if len(ids) == expected else f"expected {expected}: not the whole of VOC 2012"
        print(f"{name:<10} {len(ids):>6} ids, {verdict}; {'written to' if name in made else 'was there,'} {path}")
    if aug_masks:
        print(f"{AUG}: {len(aug_masks)} masks, expected {EXPECTED_AUG_MASKS}")
    return EXIT_INCOMPLETE if missing else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
