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
from dataclasses import replace
from typing import TYPE_CHECKING

from cli import console, training_options
from cli.commands import spelled
from cli.options import Parser, add_data_options, settings_from
from cli.training_runs import held_out, make_ready, reader_count
from common.errors import EXIT_OK, UserError
from segmentor.settings import Settings, Teaching, Views

if TYPE_CHECKING:
    import numpy as np

    from cli.lookup import Selection
    from segmentor.maskclip_plus import ClipText
    from segmentor.trainer import Job
    from training.ranks import Ranks
    from training.state import State

NAMED = 6  # hidden classes that are printed by name


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + mask PNGs -> a segmentation network, weights.safetensors in --out.",
        "An interrupted run is continued by repeating its command. Several processes: torchrun --nproc_per_node N "
        "-m scripts.train_segmentor ...; --batch_size is that of each. Curves and pictures: tensorboard --logdir OUT.",
    )
    add_data_options(parser, truth=True)
    training_options.add_training_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args), quiet=os.environ.get("RANK", "0") != "0")


def _run(args: argparse.Namespace) -> int:
    training_options.check(args)
    from training.ranks import start_ranks

    with start_ranks(args.device) as ranks:
        return _train(args, ranks)


def _train(args: argparse.Namespace, ranks: "Ranks") -> int:
    from cli.lookup import select_from
    from common.files import need_dir, need_writable
    from segmentor.maskclip_plus import source_for
    from segmentor.trainer import WEIGHTS, Job, train
    from training.pairs import training_pairs

    by_clip = args.labels == "clip"  # masks made with labels by CLIP: nothing to read here
    selection = select_from(args, images_needed=True, with_labels=not by_clip)
    if args.masks:
        need_dir(args.masks, "--masks", "one mask PNG an image, as eval_cam_with_crf.py writes them")
    settings = _settings(args, selection, ranks)
    if ranks.first:
        selection.print_labels()
    masks = None if args.masks is None else selection.as_given(args.masks)
    pairs, failures = training_pairs(selection.ids, selection.paths.images, masks, selection.spec.num_labels)
    if masks is not None and not args.teacher:
        selection.check_masks(masks, "--masks")
    settings, clip_text = replace(settings, images=len(pairs)), None
    if training_options.needs_clip(args):
        clip_text = _clip_text(args, selection, ranks)
        width = clip_text.text.foreground.shape[1] if settings.head == "text" else 0
        settings = replace(settings, words=clip_text.words, text_width=width)
    job = Job(
        settings,
        pairs,
        args.out,
        held_out(args),
        save_every=args.save_every,
        validate_every=args.val_every,
        keep=args.keep,
        readers=reader_count(args, ranks),
        sheet=_sheet,
    )
    need_writable(args.out, "--out")
    state = _state(args, job, ranks, clip_text)
    _announce(args, job, state, ranks, clip_text)
    report = train(job, state, ranks, source_for(settings, clip_text, state.network))
    score = "" if report.miou is None else f", mIoU {100 * report.miou:.1f} on {len(job.held_out.ids)} images"  # type: ignore[union-attr]
    print(f"{args.out / WEIGHTS}: {settings.arch} after {state.iteration} iterations{score}")
    predict = f"python -m scripts.predict_segmentor --weights {args.out / WEIGHTS} --img_root DIR --out MASKS"
    print(spelled(f"next: {predict}"))
    failed = [*selection.problems, *failures, *sorted(report.failures.items())]
    return console.list_failures(failed) if ranks.first else EXIT_OK


def _settings(args: argparse.Namespace, selection: "Selection", ranks: "Ranks") -> Settings:
    """All that is known before images and CLIP are looked at."""
    from segmentor.maskclip_plus import hidden_labels

    spec, masks = selection.spec, args.masks is not None
    if args.loss == "balanced" and not spec.has_background:
        raise UserError(f"--loss balanced: {spec.name} has no background to be balanced with the classes")
    return settings_from(
        args,
        Settings,
        labels=spec.label_names,
        images=0,
        ranks=ranks.count,
        background=spec.has_background,
        views=settings_from(args, Views),
        teaching=settings_from(args, Teaching, masks=masks, hidden=hidden_labels(spec, args.unlabelled, masks)),
    )


def _clip_text(args: argparse.Namespace, selection: "Selection", ranks: "Ranks") -> "ClipText":
    """The CLIP that --teacher and --head text need."""
    from clip.text import unknown_words
    from segmentor.maskclip_plus import load_clip_text

    spec = selection.spec
    model, tag = (args.clip, args.clip_pretrained) if args.clip else spec.clip
    clip_text = load_clip_text(spec, model, tag, ranks.device, args.activation, args.templates, args.prompts)
    names = [name for group in spec.plain_prompts or spec.prompts for name in group]
    if ranks.first and (unknown := unknown_words(clip_text.clip, [*names, *spec.background_prompts])):
        print(f"warning: the model never saw these words: {', '.join(unknown)}", file=sys.stderr)
    return clip_text


def _sheet(rows: "list[list[np.ndarray]]", labels: tuple[str, ...]) -> "np.ndarray":
    """Rows of image, mask and prediction as one picture, in VOC's colours."""
    import numpy as np

    from report.pictures import colour_labels, contact_sheet, legend_of

    used = {int(value) for _image, *parts in rows for part in parts for value in np.unique(part)}
    drawn = [[image, *map(colour_labels, parts)] for image, *parts in rows]
    return np.asarray(contact_sheet(drawn, ["image", "mask", "prediction"], legend_of(labels, used)))


def _state(args: argparse.Namespace, job: "Job", ranks: "Ranks", clip_text: "ClipText | None") -> "State":
    """Fresh weights, or those of the last checkpoint in --out."""
    import torch

    from segmentor.networks import TextHead
    from segmentor.pretrained import start_from
    from segmentor.trainer import WEIGHTS, start
    from training.state import resume

    settings, begun = job.settings, make_ready(args.out, WEIGHTS, args.overwrite, ranks)
    torch.manual_seed(settings.seed)
    network = job.describe(0).network()
    if settings.pretrained and not begun:
        print(f"start   {start_from(network, settings.arch, settings.pretrained)}")
    if isinstance(network.head, TextHead):
        assert clip_text is not None
        network.head.set_embeddings(clip_text.text.foreground)
    state = start(job, network, ranks)
    resume(args.out, state, settings.record())
    return state


def _announce(
    args: argparse.Namespace, job: "Job", state: "State", ranks: "Ranks", clip_text: "ClipText | None"
) -> None:
    """Print what is about to be done, before it takes long."""
    from training.state import CHECKPOINTS

    settings, teaching = job.settings, job.settings.teaching
    validation = f"{len(job.held_out.ids)} images" if job.held_out else "none (--val_split, --gt_root)"
    where = f"with masks in {args.masks}" if args.masks else "without masks"
    print(f"data    {args.dataset}: {len(job.pairs)} images {where}; validation {validation}")
    if clip_text:
        sentences = "" if settings.words.learned else f", asked with {settings.words.templates} sentences"
        print(f"clip    {clip_text.clip.describe()}{sentences}")
    if teaching.hidden:
        names = [settings.labels[label] for label in teaching.hidden]
        first_names = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        pixels = "" if teaching.masks else "every pixel: "
        print(f"hidden  {pixels}{len(names)} of {len(settings.labels)} labels ({first_names})")
        finders = []
        if teaching.teacher:
            last = min(teaching.guided[1], settings.max_iters)
            finders.append(f"{teaching.teacher} in iterations {teaching.guided[0]} to {last}")
        if teaching.own_from:
            finders.append(f"the network itself from {teaching.own_from}")
        print(f"labels  of hidden pixels: {', '.join(finders) or 'none, they are not trained on'}")
    head = f", {settings.head} head" if settings.head != "linear" else ""
    learned = sum(weight.numel() for weight in state.network.parameters() if weight.requires_grad)
    print(f"network {settings.arch}{head}, {learned / 1e6:.2f} M weights, {len(settings.labels)} labels")
    processes = f", {ranks.count} processes" if ranks.count > 1 else ""
    print(f"device  {ranks.device}{processes}, {settings.precision}")
    images = settings.batch * settings.accumulate * settings.ranks
    print(
        f"learns  {settings.optimizer}, rate {settings.lr:g} (head {settings.lr * settings.head_factor:g}), "
        f"warm-up {settings.warmup}, {images} images a step, {settings.max_iters} steps"
    )
    if state.iteration:
        print(f"goes on from iteration {state.iteration} in {args.out / CHECKPOINTS}")


if __name__ == "__main__":
    sys.exit(main())
