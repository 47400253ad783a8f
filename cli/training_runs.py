"""What the commands that train a network on masks share: options of a run, its validation, and taking it up."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import Parser
from common.arguments import positive
from common.cores import available_cores
from common.errors import UserError

if TYPE_CHECKING:
    from pipeline.stages.held_out import HeldOut
    from training.ranks import Ranks

MOST_READERS = 8


def add_run_options(parser: Parser) -> None:
    """--out, and groups for the validation and the run."""
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="where weights, checkpoints and logs go")
    add = parser.add_argument_group("validation, against --gt_root").add_argument
    add("--val_split", type=Path, metavar="FILE", help="images to score now and then; not trained on")
    add("--val_img_root", type=Path, metavar="DIR", help="where they are; not given: --img_root")
    add("--val_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    add = parser.add_argument_group("run").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--readers", type=int, metavar="N", help=f"processes that read; not given: {MOST_READERS} on a GPU, else 0")
    add("--save_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    add("--keep", type=positive, default=2, metavar="N", help="checkpoints that stay")
    add("--overwrite", action="store_true", help="begin again, whatever --out holds of an earlier run")


def check_run(args: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if args.gt_root is not None and args.val_split is None:
        raise UserError("--gt_root: only with --val_split FILE, the images to validate on")


def fill_in(args: argparse.Namespace, iterations: int) -> None:
    """Give --save_every and --val_every their usual values."""
    tenth = max(1, iterations // 10)
    args.save_every, args.val_every = args.save_every or tenth, args.val_every or tenth


def held_out(args: argparse.Namespace) -> "HeldOut | None":
    """The images to validate on."""
    if args.val_split is None:
        return None
    from cli.lookup import select, with_mask_options
    from pipeline.stages.held_out import HeldOut

    images = args.val_img_root or args.img_root
    selection = select(args.dataset, images, args.val_split, args.gt_root, args.classes, images_needed=True)
    selection = with_mask_options(selection, args)
    masks = selection.need_masks()
    selection.check_masks(masks, "--gt_root")
    return HeldOut(selection.ids, selection.paths.images, masks)


def reader_count(args: argparse.Namespace, ranks: "Ranks") -> int:
    """Processes that read ahead for each rank."""
    if args.readers is not None:
        return max(0, args.readers)
    return 0 if ranks.device.type == "cpu" else min(MOST_READERS, max(1, available_cores() // ranks.count - 1))


def make_ready(out: Path, weights: str, overwrite: bool, ranks: "Ranks") -> bool:
    """Clear what was left over in the folder of a run; whether it has checkpoints to be taken up.

    weights  the name of the file that the run ends with
    """
    from common.files import sweep_leftovers
    from training.state import checkpoints, remove_run

    if ranks.first:
        sweep_leftovers(out)
        if overwrite:
            remove_run(out)
            (out / weights).unlink(missing_ok=True)
    ranks.wait()
    begun = bool(checkpoints(out))
    if (out / weights).exists() and not begun:
        raise UserError(f"--out {out}: holds {weights} without checkpoints; pass --overwrite or another --out")
    return begun
