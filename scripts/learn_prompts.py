"""Images + masks + CLIP -> learned prompts (CoOp): vectors in place of a template's words, for --prompts of any method.

python -m scripts.learn_prompts --masks output/toyworld/data/SegmentationClass --out output/toyworld/prompts
python -m scripts.learn_prompts --dataset voc20 --img_root VOC2012/JPEGImages --split_file train_aug.txt \
    --masks SegmentationClassAug20 --model ViT-B-16.pt --out output/voc20/prompts
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import console
from cli.commands import spelled
from cli.model_options import add_model_options
from cli.options import Parser, add_data_options, add_settings, settings_from
from cli.training_runs import fill_in, make_ready, reader_count
from common.arguments import positive
from common.errors import EXIT_OK, UserError
from zsseg.training.prompt_settings import PromptSettings

if TYPE_CHECKING:
    from cli.lookup import Selection
    from clip.load import Clip
    from training.pairs import Problem
    from training.ranks import Ranks
    from zsseg.training.prompts import HeldOut, Job


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + masks -> learned prompts, prompts.safetensors in --out: pass it to any method as --prompts FILE.",
        "One sample is one class of one mask: its box is cropped, the rest of it is filled. An interrupted run is "
        "continued by repeating its command. Several processes: torchrun --nproc_per_node N -m scripts.learn_prompts "
        "...; --batch_size is that of each. --prompts: start from these vectors.",
    )
    add_data_options(parser, truth=True)
    add = parser.add_argument_group("what is learned from").add_argument
    add("--masks", type=Path, metavar="DIR", required=True, help="mask PNGs, named like the images")
    add(
        "--learn",
        choices=("seen", "all"),
        default="seen",
        help="the classes that the data set's zero-shot split leaves with labels, or all; the background is no class",
    )
    add("--out", type=Path, metavar="DIR", required=True, help="where prompts, checkpoints and logs go")
    add = parser.add_argument_group("validation, against --gt_root, on regions of all classes").add_argument
    add("--val_split", type=Path, metavar="FILE", help="images to score now and then; not learned from")
    add("--val_img_root", type=Path, metavar="DIR", help="where they are; not given: --img_root")
    add("--val_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    add_model_options(parser)
    add = parser.add_argument_group("run").add_argument
    add("--readers", type=int, metavar="N", help="processes that read; not given: 8 on a GPU, else 0")
    add("--save_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    add("--keep", type=positive, default=2, metavar="N", help="checkpoints that stay")
    add("--overwrite", action="store_true", help="begin again, whatever --out holds of an earlier run")
    add_settings(parser, "prompts and learning", PromptSettings)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args), quiet=os.environ.get("RANK", "0") != "0")


def _run(args: argparse.Namespace) -> int:
    from training.ranks import start_ranks

    if args.prefix + args.suffix == 0 and args.prompts is None:
        raise UserError("--prefix 0 --suffix 0: nothing is left to learn; expected at least one vector")
    if args.prompts is not None and args.first_words:
        raise UserError(f"--first_words {args.first_words}: --prompts says where to start; leave one of them out")
    if args.gt_root is not None and args.val_split is None:
        raise UserError("--gt_root: only with --val_split FILE, the images to validate on")
    with start_ranks(args.device) as ranks:
        return _learn(args, ranks)


def _learn(args: argparse.Namespace, ranks: "Ranks") -> int:
    from cli.jobs import model_source
    from cli.lookup import select_from
    from common.files import need_dir, need_writable
    from training.pairs import training_pairs
    from training.state import resume
    from zsseg.training.prompt_regions import balanced, regions_of
    from zsseg.training.prompts import PROMPTS, Job, learner, start, train

    selection = select_from(args, images_needed=True, with_labels=False)
    need_dir(args.masks, "--masks", "one mask PNG an image")
    need_writable(args.out, "--out")
    spec = selection.spec
    first = int(spec.has_background)
    learned = list(range(len(spec.classes)) if args.learn == "all" else spec.seen)
    pairs, failures = training_pairs(
        selection.ids, selection.paths.images, selection.as_given(args.masks), spec.num_labels
    )
    regions, unreadable = regions_of(pairs, spec.num_labels, [index + first for index in learned])
    if not regions:
        raise UserError(f"--masks {args.masks}: none of the {len(learned)} classes to learn from is in these masks")
    clip = model_source(args, spec).load(resnets=True)
    names = tuple(_names(selection)[index] for index in learned)
    settings = _settings(args, clip, ranks, dataset=spec.name, names=names, regions=len(regions))
    chosen = [regions[index] for index in balanced([region.label for region in regions], settings.per_class or 1)]
    held_out, missing = _held_out(args, learned)
    fill_in(args, settings.max_iters or 0)
    job = Job(
        settings,
        chosen,
        {index + first: place for place, index in enumerate(learned)},
        spec.num_labels,
        first,
        args.out,
        held_out,
        save_every=args.save_every,
        validate_every=args.val_every,
        keep=args.keep,
        readers=reader_count(args, ranks),
    )
    make_ready(args.out, PROMPTS, args.overwrite, ranks)
    state = start(job, learner(clip, settings), ranks)
    resume(args.out, state, settings.record())
    _announce(args, job, clip, len(regions), state.iteration)
    report = train(job, state, ranks)
    accuracy = f", {100 * report.accuracies['macc_top1']:.1f} % of held-out regions right" if report.accuracies else ""
    print(f"{args.out / PROMPTS}: {settings.prefix + settings.suffix} vectors after {state.iteration} steps{accuracy}")
    print(spelled(f"next: python generate_cams.py ... --prompts {args.out / PROMPTS}"))
    failed = {**dict(failures), **dict(missing), **dict(unreadable), **report.failures}
    return console.list_failures([*selection.problems, *sorted(failed.items())]) if ranks.first else EXIT_OK


def _names(selection: "Selection") -> "tuple[tuple[str, ...], ...]":
    from zsseg.names import class_names

    return class_names(selection.spec)


def _settings(args: argparse.Namespace, clip: "Clip", ranks: "Ranks", **data: Any) -> PromptSettings:
    """The options with what is known of the data and the CLIP."""
    from clip.tokenizer import SimpleTokenizer

    sizes = {}
    if args.first_words:
        sizes = {"prefix": len(SimpleTokenizer().encode(args.first_words))}
    if clip.learned is not None:
        sizes = {"prefix": len(clip.learned.prefix), "suffix": len(clip.learned.suffix)}
    known = {"model": clip.fingerprint, "activation": clip.activation, "ranks": ranks.count}
    start = clip.learned.fingerprint if clip.learned else ""
    return settings_from(args, PromptSettings, start=start, **data, **known, **sizes)


def _held_out(args: argparse.Namespace, learned: list[int]) -> "tuple[HeldOut | None, list[Problem]]":
    """The images to validate on, and what is wrong with those that are left out."""
    if args.val_split is None:
        return None, []
    from cli.lookup import select, with_mask_options
    from training.pairs import training_pairs
    from zsseg.training.prompts import HeldOut

    images = args.val_img_root or args.img_root
    selection = select(args.dataset, images, args.val_split, args.gt_root, args.classes, images_needed=True)
    selection = with_mask_options(selection, args)
    spec = selection.spec
    pairs, failures = training_pairs(selection.ids, selection.paths.images, selection.need_masks(), spec.num_labels)
    return HeldOut(pairs, spec.classes, _names(selection), {"base": tuple(learned)}), failures


def _announce(args: argparse.Namespace, job: "Job", clip: "Clip", found: int, iteration: int) -> None:
    """Print what is about to be done, before it takes long."""
    settings = job.settings
    print(f"data    {args.dataset}: {found} regions of {len(settings.names)} classes, {len(job.regions)} a round")
    print(f"model   {clip.describe()} on {clip.device}, {settings.precision}")
    vectors = f"{settings.prefix} vectors before the names and {settings.suffix} after them"
    print(f"learns  {vectors}, rate {settings.lr:g}, {settings.batch} regions a step, {settings.max_iters} steps")
    if iteration:
        print(f"goes on from iteration {iteration} in {args.out}")


if __name__ == "__main__":
    sys.exit(main())
