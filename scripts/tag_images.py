"""Images without labels -> the classes that CLIP sees in them (TagCLIP): the label file that the CAM stage reads.

python -m scripts.tag_images                                   # the toy world
python -m scripts.tag_images --dataset voc12 --img_root VOC2012 --out output/voc12/tags.txt
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import options, run_log
from cli.commands import spelled
from cli.jobs import TAG_FILE, model_source, tagged
from cli.model_options import add_model_options, tag_settings
from common.errors import UserError
from pipeline.methods.tagclip import TagSettings

if TYPE_CHECKING:
    from cli.lookup import Selection
    from pipeline.stages.tags import Tags


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.Parser(
        "Images without labels -> `id class class` lines (0-based class indices), with CLIP alone (TagCLIP).",
        "Where the true labels are known (the data set's own, or --labels), the tags are scored against them; they "
        "have no part in the tagging. An interrupted run is continued by repeating it.",
    )
    options.add_data_options(parser, truth=False)
    parser.add_argument("--out", type=Path, metavar="FILE", help="label file; not given: output/DATASET/tags.txt")
    add_model_options(parser)
    options.add_settings(parser, "TagCLIP", TagSettings)
    options.add_json(parser)
    options.add_log_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_log.run("-m scripts.tag_images", "tags", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from common.files import check_place
    from pipeline.files.tag_journal import forget_journal
    from pipeline.stages.tags import write_labels

    selection = select_from(args, with_labels=False)
    truth = true_labels(selection, args.labels)
    out = args.out or options.output_dir(args.dataset, TAG_FILE)
    check_place(out, "--out", TAG_FILE)
    check_place(args.json, "--json", "scores.json")
    tags: list[Tags] = []
    if selection.ids:
        clip = model_source(args, selection.spec).load()
        classes = selection.spec.classes
        print(f"data    {args.dataset}: {len(selection.ids)} images, {len(classes)} classes to choose from")
        print(f"model   {clip.describe()} on {clip.device}")
        tags = tagged(args, clip, selection, out, log)
        for tag in tags:
            log.add(tag.outcome)
        write_labels(out, tags)
        forget_journal(out)
    report_scores(args, selection, truth, tags)
    code = log.report("label lines", out)
    if tags:
        activation = None if args.activation == "auto" else args.activation
        model = (("--model", args.model), ("--pretrained", args.pretrained), ("--activation", activation))
        model_text = "".join(f" {flag} {shlex.quote(value)}" for flag, value in model if value)
        data = options.data_options(argparse.Namespace(**{**vars(args), "labels": out}))
        print(spelled(f"next: python generate_cams.py{data}{model_text}   (CAMs of these labels)"))
    return code


def true_labels(selection: "Selection", labels: str | None) -> dict[str, tuple[int, ...]]:
    """The true labels by id: those of --labels, or the data set's own where they can be read; empty without any.

    Raises UserError for a --labels that cannot be read.
    """
    if labels is not None:
        selection = selection.labelled_by(labels)
    try:
        samples, _ = selection.samples()
    except UserError:
        return {}
    return {sample.id: sample.labels for sample in samples}


def report_scores(
    args: argparse.Namespace, selection: "Selection", truth: "dict[str, tuple[int, ...]]", tags: "Sequence[Tags]"
) -> None:
    """Print the scores of the tags in percent and, with --json, write them and the settings."""
    from dataclasses import asdict

    from pipeline.steps.tag_scores import tag_scores
    from report.scores import write_json

    scored = [(truth[tag.id], tag.labels, tag.scores) for tag in tags if tag.scores is not None and tag.id in truth]
    if not scored:
        print("scores  none: the true labels are not known")
        return
    scores, classes = tag_scores(*zip(*scored)), selection.spec.classes
    print(f"\ntags against the true labels: {scores.images} images; average precision by class")
    cells = [f"{name:<14}{'    -' if ap is None else f'{100 * ap:5.1f}':>6}" for name, ap in zip(classes, scores.ap)]
    for start in range(0, len(cells), 3):
        print("  " + "    ".join(cells[start : start + 3]))
    print(f"  mAP {100 * scores.map:.1f}   per image: precision {100 * scores.precision:.1f}", end="")
    print(f"   recall {100 * scores.recall:.1f}   F1 {100 * scores.f1:.1f}   all right {100 * scores.exact:.1f}")
    result = {
        "stage": "tags",
        "dataset": selection.spec.name,
        "split": str(selection.paths.split),
        **asdict(scores),
        "ap": dict(zip(classes, scores.ap)),
        "settings": asdict(tag_settings(args)),
    }
    write_json(args.json, result)


if __name__ == "__main__":
    sys.exit(main())
