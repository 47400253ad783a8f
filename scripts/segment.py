"""A photo and the names of what is in it -> mask, overlay, and a picture of the way there; all stages in memory.

python -m scripts.segment scene.jpg --labels house tree --out output/photos            # the toy world's CLIP
python -m scripts.segment photo.jpg --labels "golden retriever" person --model ViT-B-16 --pretrained openai --out DIR
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.model_options import (
    add_crf_options,
    add_method_options,
    add_model_options,
    add_tag_options,
    maskclip_values,
    tag_values,
)
from cli.options import DATASETS, Parser, positive
from common.errors import UserError

if TYPE_CHECKING:
    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.stages.segment import PhotoJob, SegmentSettings

BY_CLIP = "clip"  # as a label: CLIP supplies the labels
FREE = "words"  # the name of a data set whose classes are the labels themselves


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Photos + the names of what is in them -> masks, in memory; without names, CLIP supplies them (TagCLIP).",
        "Writes NAME_mask.png (mode L: 0 background, class number, 255 not sure), NAME_overlay.png, NAME_steps.png. "
        "With --model and neither --dataset nor --classes, the labels may be any words.",
    )
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="image files of any size")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="what the photos show; clip or not given: ask CLIP")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    names = parser.add_argument_group("names and prompts")
    names.add_argument("--dataset", choices=DATASETS, help="those of a data set; not given: toyworld, or any words")
    names.add_argument("--classes", type=Path, metavar="FILE", help="those of a classes file, as of --dataset folder")
    add_model_options(parser)
    add_method_options(parser)
    add_crf_options(parser)
    add_tag_options(parser)
    parser.add_argument(
        "--max_side", type=positive, default=640, help="longer photos are shrunk for CLIP and the CRF, not the mask"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from common.files import need_writable
    from pipeline.stages import segment as stage_segment

    names = asked_labels(args.labels)
    spec = choose_names(args, names)
    labels = None if names is None else label_indices(spec, names)
    targets = output_files(args.photos, args.out)
    job = _job(args, spec, labels)
    need_writable(args.out, "--out")
    tally = console.Tally()
    for photo, files in zip(args.photos, targets):
        try:
            print(f"{photo}: {stage_segment.run(job, photo, files)}")
            tally.add(console.Outcome(str(photo), "made"))
        except UserError as error:
            tally.add(console.Outcome(str(photo), "failed", str(error)))
    return tally.report("sets of pictures", args.out)


# --- names ----------------------------------------------------------------------------------------


def asked_labels(given: list[str] | None) -> list[str] | None:
    """The names of `--labels a b` or `--labels a,b`, each once; None when CLIP is to supply them."""
    names = [name.strip() for text in given or [] for name in text.split(",")]
    names = list(dict.fromkeys(name for name in names if name))
    if not names and given:
        raise UserError("--labels: no name given; expected what the photos show, or clip")
    if names and BY_CLIP in names and len(names) > 1:
        raise UserError("--labels clip: CLIP supplies all labels or none; leave clip out, or the other names")
    return None if not names or names == [BY_CLIP] else names


def choose_names(args: argparse.Namespace, labels: list[str] | None) -> "DatasetSpec":
    """The classes and prompts: of --classes, of --dataset, the labels themselves with an own model, or toyworld's."""
    from cli.lookup import FOLDER, dataset_spec

    if args.dataset is not None or args.classes is not None:
        return dataset_spec(args.dataset or FOLDER, args.classes)
    if args.model is None:
        return dataset_spec("toyworld")
    if labels is None:
        raise UserError("--labels: CLIP needs names to choose from; give --classes FILE or --dataset voc12")
    return free_words(labels)


def free_words(labels: list[str]) -> "DatasetSpec":
    """A data set made of the labels themselves, against VOC's background words (less those that are labels here)."""
    from dataset.classes_file import default_background
    from dataset.spec import DatasetSpec
    from voc12.spec import SPEC

    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in labels}
    return DatasetSpec(
        FREE, tuple(groups), tuple(groups.values()), default_background(groups), True, SPEC.box_threshold, SPEC.template
    )


def label_indices(spec: "DatasetSpec", names: list[str]) -> tuple[int, ...]:
    """The classes' indices, each once; raises UserError with the nearest name for one that is not a class."""
    from dataset.names import hint, name_indices

    known = name_indices(spec)
    for name in names:
        if name not in known:
            raise UserError(
                f"--labels {name}: not a class of {spec.name}; {hint(name, spec.classes)} "
                "(any word will do with --model and a pretrained CLIP, without --dataset and --classes)"
            )
    return tuple(dict.fromkeys(known[name] for name in names))


def output_files(photos: list[Path], folder: Path) -> list[dict[str, Path]]:
    """One path a kind of picture for every photo; raises UserError where one would overwrite another, or a photo."""
    from dataset.voc_layout import is_file
    from pipeline.stages.segment import KINDS

    if is_file(folder):
        raise UserError(f"--out {folder}: a file; expected a folder to write into")
    targets = [{kind: folder / f"{photo.stem}_{kind}.png" for kind in KINDS} for photo in photos]
    taken: dict[Path, Path] = {photo.resolve(): photo for photo in photos}
    for photo, files in zip(photos, targets):
        for path in files.values():
            if path.resolve() in taken:
                raise UserError(
                    f"{photo}: its {path.name} would overwrite {path} of {taken[path.resolve()]}; rename it"
                )
            taken[path.resolve()] = photo
    return targets


# --- set-up ---------------------------------------------------------------------------------------


def _job(args: argparse.Namespace, spec: "DatasetSpec", labels: tuple[int, ...] | None) -> "PhotoJob":
    from pipeline.methods.tagclip import TagSettings
    from pipeline.stages.cams import record, text_set
    from pipeline.stages.segment import PhotoJob
    from pipeline.stages.tags import check_settings, tag_text

    clip, tags = _load(args, spec), TagSettings(**tag_values(args))
    settings = _settings(args, spec, clip)
    if labels is None:
        check_settings(clip, tags)
    made_by = {
        **record(clip, spec, settings.cam, full_size=False),
        "classes": spec.classes,
        "crf_image": settings.crf_image,
        "confidence": settings.confidence,
        "max_side": settings.max_side,
        **asdict(settings.crf),
    }
    return PhotoJob(
        clip,
        ("background", *spec.classes),
        text_set(clip, spec, settings.cam),
        labels,
        tag_text(clip, spec, args.templates) if labels is None else None,
        settings,
        tags,
        json.dumps(made_by, sort_keys=True),
    )


def _load(args: argparse.Namespace, spec: "DatasetSpec") -> "Clip":
    from cli.lookup import DEFAULT_MODELS
    from clip.device import pick_device
    from clip.load import load_clip
    from clip.text import unknown_words
    from pipeline.methods.table import METHODS, check_told

    check_told(args.method, maskclip_values(args))
    model, tag = (args.model, args.pretrained) if args.model else DEFAULT_MODELS.get(spec.name, ("ViT-B-16", "openai"))
    resnets = METHODS[args.method].resnets and args.labels is not None  # TagCLIP needs a ViT
    clip = load_clip(model, args.pretrained or tag, pick_device(args.device), args.activation, resnets)
    prompts = [prompt for group in (*spec.prompts, spec.background_prompts) for prompt in group]
    if unknown := unknown_words(clip, [spec.template.replace("{}", ""), *prompts]):
        print(f"warning: the model never saw these words: {', '.join(unknown)}", file=sys.stderr)
    return clip


def _settings(args: argparse.Namespace, spec: "DatasetSpec", clip: "Clip") -> "SegmentSettings":
    from pipeline.methods.table import CamSettings
    from pipeline.stages.cams import maskclip_settings
    from pipeline.stages.segment import SegmentSettings

    threshold = spec.box_threshold if args.box_threshold is None else args.box_threshold
    return SegmentSettings(
        cam=CamSettings(
            args.method,
            threshold,
            tuple(args.scales),
            args.flip,
            precision=args.precision,
            compile=args.compile,
            maskclip=maskclip_settings(clip, spec, args.method, maskclip_values(args)),
        ),
        crf_image=args.crf_image,
        backend=args.crf or "numba",
        confidence=args.confidence,
        max_side=args.max_side,
    )


if __name__ == "__main__":
    sys.exit(main())
