"""Images + mask PNGs -> a trained segmentation network (SegFormer or DeepLab); 255 in a mask is not trained on.

python -m scripts.train_segmentor --masks output/toyworld/masks --arch segformer-tiny --crop 128 --batch_size 8 \
    --lr 1e-3 --max_iters 800 --out output/toyworld/segmentor                                     # the toy world
torchrun --nproc_per_node 4 -m scripts.train_segmentor --dataset voc12 --img_root VOC2012/JPEGImages \
    --masks output/voc12/masks --arch segformer-b2 --pretrained nvidia/mit-b2 --out output/voc12/segmentor
python -m scripts.train_segmentor --teacher maskclip --head text --arch segformer-tiny --crop 128 --batch_size 8 \
    --lr 1e-3 --max_iters 800 --out output/toyworld/maskclip_plus           # MaskCLIP+: no masks, CLIP labels
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from cli import console, training_options
from cli.options import Parser, add_data_options, add_own_data_options
from common.cores import available_cores
from common.errors import EXIT_OK, UserError

if TYPE_CHECKING:
    import numpy as np

    from cli.lookup import Selection
    from segmentor.maskclip_plus import Knowledge
    from segmentor.samples import Pair
    from segmentor.settings import Settings
    from segmentor.trainer import Job
    from segmentor.validation import Unseen
    from training.ranks import Ranks
    from training.state import State

NAMED = 6  # classes that are told by name


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + mask PNGs -> a segmentation network, weights.safetensors in --out.",
        "An interrupted run is continued by repeating its command. Several processes: torchrun --nproc_per_node N "
        "-m scripts.train_segmentor ...; --batch_size is that of each. Curves and pictures: tensorboard --logdir OUT.",
    )
    add_data_options(parser, truth=True)
    add_own_data_options(parser)
    training_options.add_training_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args), quiet=os.environ.get("RANK", "0") != "0")


def _run(args: argparse.Namespace) -> int:
    training_options.check(args)
    from training.ranks import joined

    with joined(args.device) as ranks:
        return _train(args, ranks)


def _train(args: argparse.Namespace, ranks: "Ranks") -> int:
    from cli.lookup import select_from
    from common.files import need_dir, need_writable
    from segmentor.maskclip_plus import source_for
    from segmentor.trainer import WEIGHTS, Job, train

    by_clip = args.labels == "clip"  # masks made with labels by CLIP: nothing to read here
    selection = select_from(args, images_needed=True, with_labels=not by_clip)
    if args.masks:
        need_dir(args.masks, "--masks", "one mask PNG an image, as eval_cam_with_crf.py writes them")
    settings = _settings(args, selection, ranks)
    pairs, failures = _pairs(args, selection)
    knowledge = _knowledge(args, selection, ranks) if training_options.needs_clip(args) else None
    job = Job(
        _complete(settings, len(pairs), knowledge),
        pairs,
        args.out,
        _unseen(args),
        save_every=args.save_every,
        validate_every=args.val_every,
        keep=args.keep,
        readers=_readers(args, ranks),
        sheet=_sheet,
    )
    need_writable(args.out, "--out")
    state = _state(args, job, ranks, knowledge)
    _announce(args, job, state, ranks, knowledge)
    report = train(job, state, ranks, source_for(job.settings, knowledge, state.network))
    score = "" if report.miou is None else f", mIoU {100 * report.miou:.1f} on {len(job.unseen.ids)} images"  # type: ignore[union-attr]
    print(f"{args.out / WEIGHTS}: {job.settings.arch} after {state.iteration} iterations{score}")
    print(f"next: python -m scripts.predict_segmentor --weights {args.out / WEIGHTS} --img_root DIR --out MASKS")
    failed = [*selection.problems, *failures, *sorted(report.failures.items())]
    return console.list_failures(failed) if ranks.first else EXIT_OK


# --- set-up ---------------------------------------------------------------------------------------


def _settings(args: argparse.Namespace, selection: "Selection", ranks: "Ranks") -> "Settings":
    """All that is known before images and CLIP are looked at."""
    from dataclasses import fields

    from segmentor.augment import Views
    from segmentor.maskclip_plus import hidden_labels
    from segmentor.settings import Settings, Teaching

    spec = selection.spec
    if args.loss == "balanced" and not spec.has_background:
        raise UserError(f"--loss balanced: {spec.name} has no background to be balanced with the classes")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(args).items()}
    given |= {"masks": args.masks is not None, "hidden": hidden_labels(spec, args.unlabelled, args.masks is not None)}
    given |= {"labels": spec.label_names, "background": spec.has_background, "ranks": ranks.count, "images": 0}

    def read(kind: type, **more: Any) -> Any:
        """An object of a kind of settings from the options that have the names of its fields."""
        return kind(
            **{each.name: given[each.name] for each in fields(kind) if given.get(each.name) is not None}, **more
        )

    return read(Settings, views=read(Views), teaching=read(Teaching))


def _pairs(args: argparse.Namespace, selection: "Selection") -> "tuple[list[Pair], list[tuple[str, str]]]":
    """Images and their masks, and (id, reason) of the images that cannot be trained on."""
    from dataset.voc_layout import find_image
    from segmentor.samples import Pair, usable

    found, failures = [], []
    for image_id in selection.ids:
        try:
            mask = args.masks / f"{image_id}.png" if args.masks else None
            found.append(Pair(image_id, find_image(selection.paths.images, image_id), mask))
        except UserError as error:
            failures.append((image_id, str(error)))
    good, others = usable(found, selection.spec.num_labels)
    return good, [*failures, *others]


def _knowledge(args: argparse.Namespace, selection: "Selection", ranks: "Ranks") -> "Knowledge":
    """The CLIP that takes part."""
    from segmentor.maskclip_plus import ask_clip, check_width, never_seen

    model, tag = (args.clip, args.clip_pretrained) if args.clip else selection.spec.clip
    found = ask_clip(selection.spec, model, tag, ranks.device, args.activation, args.templates)
    if args.head == "text":
        check_width(found)
    if ranks.first and (unknown := never_seen(found, selection.spec)):
        print(f"warning: the model never saw these words: {', '.join(unknown)}", file=sys.stderr)
    return found


def _complete(settings: "Settings", images: int, knowledge: "Knowledge | None") -> "Settings":
    """The settings with what is known of the images and of CLIP."""
    from dataclasses import replace

    if knowledge:
        width = knowledge.width if settings.head == "text" else 0
        settings = replace(settings, words=knowledge.words, text_width=width)
    return replace(settings, images=images)


def _unseen(args: argparse.Namespace) -> "Unseen | None":
    if args.val_split is None:
        return None
    from cli.lookup import select
    from segmentor.validation import Unseen

    images = args.val_img_root or args.img_root
    found = select(args.dataset, images, args.val_split, args.gt_root, args.classes, images_needed=True)
    return Unseen(found.ids, found.paths.images, found.need_masks())


def _readers(args: argparse.Namespace, ranks: "Ranks") -> int:
    if args.readers is not None:
        return max(0, args.readers)
    return 0 if ranks.device.type == "cpu" else min(8, max(1, available_cores() // ranks.count - 1))


def _sheet(rows: "list[list[np.ndarray]]", labels: tuple[str, ...]) -> "np.ndarray":
    """Rows of image, mask and prediction as one picture, in VOC's colours."""
    import numpy as np

    from report.pictures import colour_labels, contact_sheet, legend_of

    used = {int(value) for _image, *parts in rows for part in parts for value in np.unique(part)}
    drawn = [[image, *map(colour_labels, parts)] for image, *parts in rows]
    return np.asarray(contact_sheet(drawn, ["image", "mask", "prediction"], legend_of(labels, used)))


def _state(args: argparse.Namespace, job: "Job", ranks: "Ranks", knowledge: "Knowledge | None") -> "State":
    """Fresh weights, or those of the last checkpoint in --out."""
    import torch

    from common.files import sweep_leftovers
    from segmentor.heads import TextHead
    from segmentor.pretrained import start_from
    from segmentor.trainer import WEIGHTS, start
    from training.state import checkpoints, forget, take_up

    asked = job.settings
    if ranks.first:
        sweep_leftovers(args.out)
        if args.overwrite:
            forget(args.out)
            (args.out / WEIGHTS).unlink(missing_ok=True)
    ranks.wait()
    if (args.out / WEIGHTS).exists() and not checkpoints(args.out):
        raise UserError(f"--out {args.out}: holds {WEIGHTS} without checkpoints; pass --overwrite or another --out")
    torch.manual_seed(asked.seed)
    network = job.describe(0).network()
    if asked.pretrained and not checkpoints(args.out):
        print(f"start   {start_from(network, asked.arch, asked.pretrained)}")
    if isinstance(network.head, TextHead):
        assert knowledge is not None
        network.head.know(knowledge.text.foreground)
    state = start(job, network, ranks)
    take_up(args.out, state, asked.record())
    return state


# --- what is about to be done -----------------------------------------------------------------------


def _announce(
    args: argparse.Namespace, job: "Job", state: "State", ranks: "Ranks", knowledge: "Knowledge | None"
) -> None:
    """What is about to be done, before it takes long."""
    from segmentor.networks import count_parameters
    from training.state import CHECKPOINTS

    asked, seen = job.settings, f"{len(job.unseen.ids)} images" if job.unseen else "none (--val_split, --gt_root)"
    processes = f", {ranks.count} processes" if ranks.count > 1 else ""
    where = f"with masks in {args.masks}" if args.masks else "without masks"
    head = f", {asked.head} head" if asked.head != "linear" else ""
    print(f"data    {args.dataset}: {len(job.pairs)} images {where}; validation {seen}")
    _announce_labels(asked, knowledge)
    size = f"{count_parameters(state.network) / 1e6:.2f} M weights"
    print(f"network {asked.arch}{head}, {size}, {len(asked.labels)} labels")
    print(f"device  {ranks.device}{processes}, {asked.precision}")
    print(
        f"learns  {asked.optimizer}, rate {asked.lr:g} (head {asked.lr * asked.head_factor:g}), "
        f"warm-up {asked.warmup}, {asked.batch * asked.accumulate * asked.ranks} images a step, {asked.max_iters} steps"
    )
    if state.iteration:
        print(f"goes on from iteration {state.iteration} in {args.out / CHECKPOINTS}")


def _announce_labels(asked: "Settings", knowledge: "Knowledge | None") -> None:
    """Which labels are hidden, and where those come from that are trained on."""
    teaching = asked.teaching
    if knowledge:
        print(f"clip    {knowledge.clip.describe()}, asked with {asked.words.templates} sentences")
    if not teaching.hidden:
        return
    names = [asked.labels[label] for label in teaching.hidden]
    told = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    print(f"hidden  {'' if teaching.masks else 'every pixel: '}{len(names)} of {len(asked.labels)} labels ({told})")
    first, last = teaching.guided
    finders = [f"{teaching.teacher} in iterations {first} to {min(last, asked.max_iters)}"] if teaching.teacher else []
    finders += [f"the network itself from {teaching.own_from}"] if teaching.own_from else []
    print(f"labels  of hidden pixels: {', '.join(finders) or 'none, they are not trained on'}")


if __name__ == "__main__":
    sys.exit(main())
