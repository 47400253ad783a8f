"""Images + masks of seen classes -> zsseg's MaskFormer, which finds masks of any class and names it by CLIP's text.

python -m scripts.train_zsseg --preset voc-15-R101c --dataset voc20 --img_root VOC2012/JPEGImages \
    --split_file train.txt --masks MASKS --clip ViT-B-16.pt --pretrained R-103.pkl --out output/voc20/zsseg
python -m scripts.train_zsseg --dataset toyworld --masks output/toyworld/data/SegmentationClass --network tiny \
    --crop 96 --short_side 96 --max_iters 1000 --lr 1e-3 --backbone_lr 1 --out output/toyworld/zsseg
python -m scripts.train_zsseg --eval_only --dataset voc20 --val_split val.txt --gt_root MASKS --out output/voc20/zsseg
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser, add_data_options, add_settings, settings_from
from cli.training_runs import add_run_options, check_run, fill_in, held_out, make_ready, reader_count
from common.errors import EXIT_OK, UserError
from zsseg.training.settings import Settings

if TYPE_CHECKING:
    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.steps.scores import SplitScores
    from training.pairs import Pair
    from training.ranks import Ranks
    from training.state import State
    from zsseg.training.trainer import Job


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + masks of seen classes -> zsseg's MaskFormer, weights.safetensors in --out.",
        "An interrupted run is continued by repeating its command. Several processes: torchrun --nproc_per_node N "
        "-m scripts.train_zsseg ...; --batch_size is that of each. Curves: tensorboard --logdir OUT.",
    )
    add_data_options(parser, truth=True)
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="mask PNGs with the data set's values; pixels of classes that are not learned count as 255",
    )
    parser.add_argument(
        "--learn",
        choices=("seen", "all"),
        default="seen",
        help="the classes that the data set's zero-shot split leaves with labels, or all (for pseudo masks)",
    )
    parser.add_argument(
        "--eval_only",
        action="store_true",
        help="train nothing: score weights.safetensors of --out, or --weights, on --val_split",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="with --eval_only: of ours, or a published file")
    add_run_options(parser)
    add_settings(parser, "network and learning", Settings)
    add = parser.add_argument_group("CLIP, whose text embeddings the queries are compared with").add_argument
    add(
        "--clip",
        metavar="FILE|NAME",
        help="what is --model in generate_cams.py; not given: the toy world's own, or the preset's by OpenAI",
    )
    add("--clip_pretrained", metavar="TAG|FILE", help="what is --pretrained there; with a name only")
    add("--activation", choices=("auto", "quick_gelu", "gelu"), default="auto", help="of its MLPs")
    add(
        "--templates",
        choices=("auto", "single", "vild14", "imagenet80", "dataset"),
        default="auto",
        help="sentences that names are put into; auto: the preset's, or the data set's where CLIP knows no others",
    )
    add("--prompts", type=Path, metavar="FILE", help="learned prompts (scripts.learn_prompts) in place of sentences")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args), quiet=os.environ.get("RANK", "0") != "0")


def _run(args: argparse.Namespace) -> int:
    check_run(args)
    if args.eval_only and args.val_split is None:
        raise UserError("--eval_only: goes with --val_split FILE and --gt_root DIR, what to score")
    if args.weights and not args.eval_only:
        raise UserError(f"--weights {args.weights}: goes with --eval_only; to start from weights pass --pretrained")
    if args.masks is None and not args.eval_only:
        raise UserError("--masks is needed: a folder of mask PNGs with the data set's values")
    if args.ema >= 1:
        raise UserError(f"--ema {args.ema:g}: expected a decay below 1, such as 0.999")
    if args.prompts and args.templates != "auto":
        raise UserError(f"--templates {args.templates}: learned prompts stand in their place; leave one of them out")
    from training.ranks import start_ranks

    with start_ranks(args.device) as ranks:
        return _evaluate(args, ranks) if args.eval_only else _train(args, ranks)


def _evaluate(args: argparse.Namespace, ranks: "Ranks") -> int:
    """Score a checkpoint on the held-out images, the network alone."""
    from cli.lookup import dataset_spec
    from pipeline.steps.scores import split_scores
    from zsseg.checkpoint import read_checkpoint
    from zsseg.names import class_names
    from zsseg.training.trainer import WEIGHTS, network_alone, score_all
    from zsseg.words import query_text

    spec, path = dataset_spec(args.dataset, args.classes), args.weights or args.out / WEIGHTS
    checkpoint, images = read_checkpoint(path), held_out(args)
    assert images is not None
    settings = settings_from(args, Settings, names=(), images=0, ranks=ranks.count)
    clip, _ = _clip(args, spec, settings, ranks)
    templates = args.templates if args.templates != "auto" or checkpoint.about else settings.published.queries
    text = query_text(checkpoint, path, clip, class_names(spec), templates, spec.template)
    about, sides = checkpoint.about, (settings.short, settings.longest)
    if about and not (args.short_side or args.long_side):
        sides = about.short, about.longest
    trained = f"{about.iterations} iterations, {len(about.names)} classes" if about else "a published file"
    print(f"weights {path} ({trained}) on {len(images.ids)} images, short side {sides[0]}")
    predict = network_alone(checkpoint.network.to(ranks.device), spec, text, *sides)
    scores, failures = score_all(images, spec, predict, ranks)
    print(f"mIoU {100 * scores.miou:.1f}{_scores(split_scores(scores.iou, spec.unseen_labels))}, the network alone")
    return console.list_failures(sorted(failures.items())) if ranks.first else EXIT_OK


def _train(args: argparse.Namespace, ranks: "Ranks") -> int:
    from cli.lookup import select_from
    from common.files import need_dir, need_writable
    from training.pairs import training_pairs
    from zsseg.training.trainer import WEIGHTS, Job, train

    selection = select_from(args, images_needed=True, with_labels=args.labels != "clip")
    spec = selection.spec
    need_dir(args.masks, "--masks", "one mask PNG an image")
    classes = list(range(len(spec.classes)) if args.learn == "all" else spec.seen)
    pairs, failures = training_pairs(
        selection.ids, selection.paths.images, selection.as_given(args.masks), spec.num_labels
    )
    pairs, without = _with_classes(args.masks, pairs, [index + int(spec.has_background) for index in classes])
    names = tuple(spec.classes[index] for index in classes)
    settings = settings_from(args, Settings, names=names, images=len(pairs), ranks=ranks.count)
    if settings.crop % 32:
        raise UserError(f"--crop {settings.crop}: expected a multiple of 32")
    fill_in(args, settings.max_iters)
    clip, templates = _clip(args, spec, settings, ranks)
    from zsseg.names import class_names
    from zsseg.words import class_text

    every = class_text(clip, class_names(spec), templates, spec.template).cpu()
    scale = settings.logit_scale or float(clip.logit_scale)
    settings = replace(settings, text_width=every.shape[1], words=_words(clip, templates), logit_scale=scale)
    job = Job(
        settings,
        spec,
        classes,
        every[classes],
        every,
        pairs,
        args.out,
        held_out(args),
        save_every=args.save_every,
        validate_every=args.val_every,
        keep=args.keep,
        readers=reader_count(args, ranks),
    )
    need_writable(args.out, "--out")
    state = _state(args, job, clip, ranks)
    _announce(args, job, state, ranks, clip)
    if without:
        print(f"left out {without} images without a class to learn, by the counts beside {args.masks}")
    report = train(job, state, ranks)
    print(f"{args.out / WEIGHTS}: {settings.network} after {state.iteration} iterations{_scores(report.scores)}")
    failed = [*selection.problems, *failures, *sorted(report.failures.items())]
    return console.list_failures(failed) if ranks.first else EXIT_OK


def _with_classes(masks: Path, pairs: "list[Pair]", labels: list[int]) -> "tuple[list[Pair], int]":
    """The pairs whose masks hold one of these labels, and how many do not, where scripts.prepare_zsseg counted them."""
    counts = masks.with_name(f"{masks.name}_label_count.json")
    if not counts.is_file():
        return pairs, 0
    try:
        held = {str(name): set(values) for name, values in dict(json.loads(counts.read_text(encoding="utf-8"))).items()}
    except (ValueError, TypeError) as error:
        raise UserError(f"{counts}: not the labels of each mask; make it with scripts.prepare_zsseg") from error
    kept = [pair for pair in pairs if held.get(f"{pair.id}.png", set(labels)) & set(labels)]
    if not kept:
        raise UserError(f"{counts}: no mask holds a class to learn; masks of another data set?")
    return kept, len(pairs) - len(kept)


def _clip(args: argparse.Namespace, spec: "DatasetSpec", settings: Settings, ranks: "Ranks") -> "tuple[Clip, str]":
    """The CLIP, and the templates that it is asked with."""
    from clip.load import load_clip
    from toyworld.spec import SPEC
    from zsseg.words import choose

    preset = settings.published
    usual = spec.clip if spec.name == SPEC.name else (preset.clip, "openai")
    model, tag = (args.clip, args.clip_pretrained) if args.clip else usual
    try:
        clip = load_clip(model, tag, ranks.device, args.activation, resnets=True, prompts=args.prompts)
    except UserError as error:  # which speaks of the options of generate_cams.py
        message = str(error).replace("--pretrained", "--clip_pretrained").replace("--model", "--clip")
        raise UserError(message) from error
    learned = preset.queries == "learned"
    if args.templates == "auto" and learned and not args.prompts:
        print(f"warning: {args.preset} was published with learned prompts; without --prompts, sentences are used")
    return clip, choose(clip, args.templates, "single" if learned else preset.queries)


def _words(clip: "Clip", templates: str) -> dict[str, str]:
    """What the text embeddings depend on, for the weight file and the checkpoints."""
    words = {"clip": clip.fingerprint, "activation": clip.activation}
    return words | ({"prompts": clip.learned.fingerprint} if clip.learned else {"templates": templates})


def _state(args: argparse.Namespace, job: "Job", clip: "Clip", ranks: "Ranks") -> "State":
    """Fresh weights, or those of the last checkpoint in --out."""
    import torch

    from training.state import resume
    from zsseg.maskformer import MaskFormer
    from zsseg.pretrained import start_from
    from zsseg.training.trainer import WEIGHTS, start
    from zsseg.words import prompt_tensors

    settings, begun = job.settings, make_ready(args.out, WEIGHTS, args.overwrite, ranks)
    torch.manual_seed(settings.seed)
    network = MaskFormer(settings.sizes, prompt_tensors(clip) if clip.learned else None)
    if settings.pretrained and not begun:
        print(f"start   {start_from(network, settings.pretrained)}")
    elif not begun and settings.sizes.norm == "frozen":
        print("warning: without --pretrained the backbone starts from random weights, and its norms cannot learn")
    state = start(job, network, ranks)
    resume(args.out, state, settings.record())
    return state


def _scores(scores: "SplitScores | None") -> str:
    if scores is None:
        return ""
    shown = {"seen": scores.seen, "unseen": scores.unseen, "hIoU": scores.harmonic}
    return "".join(f", {name} {100 * value:.1f}" for name, value in shown.items() if value is not None)


def _announce(args: argparse.Namespace, job: "Job", state: "State", ranks: "Ranks", clip: "Clip") -> None:
    """Print what is about to be done, before it takes long."""
    settings, spec = job.settings, job.spec
    validation = f"{len(job.held_out.ids)} images" if job.held_out else "none (--val_split, --gt_root)"
    print(f"data    {args.dataset}: {len(job.pairs)} images with masks in {args.masks}; validation {validation}")
    hidden = [name for name in spec.classes if name not in settings.names]
    print(f"classes {len(settings.names)} are seen" + (f", unseen: {', '.join(hidden[:6])}" if hidden else ""))
    words = clip.learned.describe() if clip.learned else f"{settings.words['templates']} sentences"
    print(f"clip    {clip.describe()}, asked with {words}")
    learned = sum(weight.numel() for weight in state.network.parameters() if weight.requires_grad)
    print(f"network {settings.network}, {learned / 1e6:.2f} M weights that learn, {settings.sizes.queries} queries")
    processes = f", {ranks.count} processes" if ranks.count > 1 else ""
    print(f"device  {ranks.device}{processes}, {settings.precision}")
    images = settings.batch * settings.accumulate * settings.ranks
    rates = f"rate {settings.lr:g} (backbone {settings.lr * settings.backbone_lr:g})"
    print(f"learns  {rates}, {images} images a step, {settings.max_iters} steps ({settings.preset})")
    if state.iteration:
        print(f"goes on from iteration {state.iteration} in {args.out}")


if __name__ == "__main__":
    sys.exit(main())
