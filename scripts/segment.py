"""A photo and the names of what is in it -> mask, overlay, and a picture of the way there; all stages in memory.

python -m scripts.segment scene.jpg --labels house tree --out output/photos            # the toy world's CLIP
python -m scripts.segment photo.jpg --labels "golden retriever" person --model ViT-B-16 --pretrained openai --out DIR
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.jobs import cam_job, load_model
from cli.model_options import (
    BY_CLIP,
    add_crf_options,
    add_method_options,
    add_model_options,
    add_tag_options,
    tag_settings,
)
from cli.options import DATASETS, Parser
from common.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from dataset.spec import DatasetSpec, Sample
    from pipeline.stages.batches import BatchImage
    from pipeline.stages.cams import CamWork
    from pipeline.stages.crf import CrfJob, CrfResult
    from pipeline.stages.tags import TagWork

KINDS = ("mask", "overlay", "steps")  # the pictures of a photo
FREE = "words"  # the name of a data set whose classes are the labels themselves


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Photos + the names of what is in them -> masks, in memory; without names, CLIP supplies them (TagCLIP).",
        "Writes NAME_mask.png (mode L: 0 background, class number, 255 not sure; class index where the data set has no "
        "background), NAME_overlay.png, NAME_steps.png. With --model and neither --dataset nor --classes, the labels "
        "may be any words. Photos longer than --max_side are shrunk for CLIP and the CRF, their masks are not.",
    )
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="image files of any size")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="what the photos show; clip or not given: ask CLIP")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    names = parser.add_argument_group("names and prompts")
    names.add_argument("--dataset", choices=DATASETS, help="those of a data set; not given: toyworld, or any words")
    names.add_argument("--classes", type=Path, metavar="FILE", help="those of a classes file, as of --dataset folder")
    add_model_options(parser)
    add_method_options(parser, {"max_side": 640})  # both CLIP and the CRF were tuned on images of some 500 pixels
    add_crf_options(parser)
    add_tag_options(parser, without_labels=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from common.files import need_writable
    from pipeline.stages import run as stage_run
    from pipeline.stages import tags

    names = asked_labels(args.labels)
    spec = choose_names(args, names)
    labels = None if names is None else label_indices(spec, names)
    targets = output_files(args.photos, args.out)
    cams = load_model(cam_job(args, spec, args.out, by_clip=labels is None))
    tagging = tags.set_up(cams.clip, spec, args.out, tag_settings(args)) if labels is None else None
    need_writable(args.out, "--out")
    tally = console.Tally()
    samples, notes = labelled(args, tagging, labels or (), tally)
    job = crf_job(args, spec)
    said: dict[str, str] = {}

    def show(mapped: "BatchImage", result: "CrfResult") -> None:
        photo = mapped.sample.id
        said[photo] = write_pictures(job, cams, mapped, result, targets[photo], notes.get(photo, []))

    for outcome in stage_run.run(cams, job, samples, set(), job.empty_totals(), show=show):
        if outcome.status == "made":
            print(f"{photo_of(samples, outcome.id)}: {said[outcome.id]}")
        tally.add(outcome)
    return tally.report("sets of pictures", args.out)


# --- set-up ---------------------------------------------------------------------------------------


def crf_job(args: argparse.Namespace, spec: "DatasetSpec") -> "CrfJob":
    """The CRF of photos that may be large: worked on at `--max_side`, with smooth borders at full size."""
    from pipeline.stages.crf import CrfJob, backend_for

    return CrfJob(
        cams=args.out,
        images=args.out,
        out_dir=args.out,
        truth=None,
        num_classes=len(spec.classes),
        cam_type=args.cam_type,
        crf_image=args.crf_image,
        backend=args.crf or backend_for(args.device),
        device=args.device,
        confidence=args.confidence,
        max_pixels=args.max_pixels,
        max_side=args.max_side,
        smooth=True,
        overwrite=True,
        has_background=spec.has_background,
        mask_ending="_mask.png",
    )


def labelled(
    args: argparse.Namespace, tagging: "TagWork | None", labels: tuple[int, ...], tally: console.Tally
) -> "tuple[list[Sample], dict[str, list[str]]]":
    """The photos with these labels or, with `tagging`, those that CLIP supplies; their scores as texts by id."""
    from dataset.spec import Sample
    from pipeline.stages import tags

    samples = [Sample(photo.stem, photo, labels) for photo in args.photos]
    if tagging is None:
        return samples, {}
    found = list(tags.tag_samples(tagging, samples))
    for tag in found:
        if tag.scores is None:
            tally.add(tag.outcome)
    scored = [(tag.sample, tag.scores) for tag in found if tag.scores is not None]
    notes = {sample.id: [f"{scores[label]:.2f}" for label in sample.labels] for sample, scores in scored}
    return [sample for sample, _ in scored], notes


def photo_of(samples: "list[Sample]", image_id: str) -> Path:
    return next(sample.image for sample in samples if sample.id == image_id)


# --- pictures -------------------------------------------------------------------------------------


def write_pictures(
    job: "CrfJob", cams: "CamWork", mapped: "BatchImage", result: "CrfResult", files: dict[str, Path], notes: list[str]
) -> str:
    """Write a photo's overlay and the picture of the way to its mask; returns what the mask holds, for people."""
    import numpy as np
    from PIL import Image

    from common.images import LARGE, read_within
    from pipeline.stages.crf import full_size
    from pipeline.steps.kinds import to_heat
    from pipeline.steps.maps import enlarge_labels, resize_maps
    from pipeline.steps.masks import mask_values
    from report.photo_sheet import PhotoRoad, photo_sheet, shares
    from report.pictures import label_overlay

    image, spec = result.input, cams.job.spec
    _, mask = full_size(job, result)
    photo = np.asarray(read_within(image.photo, LARGE))
    _write(
        files["overlay"], Image.fromarray(label_overlay(photo, enlarge_labels(mask, (photo.shape[0], photo.shape[1]))))
    )
    cam, attn = (to_heat(resize_maps(maps, image.rgb.shape[:2]), image.kind) for maps in mapped.maps)
    values = mask_values(image.keys, job.has_background)[int(job.has_background) :]  # of the classes
    road = PhotoRoad(image.rgb, mask, values, cam, attn, notes)
    _write(files["steps"], photo_sheet(road, spec.label_names))
    held = ", ".join(f"{name} {100 * share:.1f} %" for _, name, share in shares(mask, spec.label_names))
    by_clip = ", ".join(f"{spec.label_names[value]} {note}" for value, note in zip(values, notes))
    return f"{held}   (labels by CLIP: {by_clip})" if notes else held


def _write(path: Path, picture: "Image.Image") -> None:
    from common.files import atomic_write
    from dataset.mask_png import made_here

    with atomic_write(path) as stream:
        picture.save(stream, "PNG", pnginfo=made_here())


# --- names ----------------------------------------------------------------------------------------


def asked_labels(given: list[str] | None) -> list[str] | None:
    """The names of `--labels a b` or `--labels a,b`, each once; None when CLIP is to supply them."""
    from dataset.names import plain_name

    names = [plain_name(name) for text in given or [] for name in text.split(",")]
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


def output_files(photos: list[Path], folder: Path) -> dict[str, dict[str, Path]]:
    """By photo, one path a kind of picture; raises UserError where one would overwrite another, or a photo."""
    from dataset.voc_layout import is_file

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
    return {photo.stem: files for photo, files in zip(photos, targets)}


if __name__ == "__main__":
    sys.exit(main())
