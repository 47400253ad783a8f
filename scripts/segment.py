"""A photo and the names of what is in it -> mask, overlay, and a picture of the way there; all stages in memory.

python -m scripts.segment scene.jpg --labels house tree --out output/photos            # the toy world's CLIP
python -m scripts.segment photo.jpg --labels "golden retriever" person --model ViT-B-16 --pretrained openai --out DIR
python -m scripts.segment photo.jpg --method segclip --model segclip.bin --dataset voc12 --out DIR --vis input_pred
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console, model_options
from cli.jobs import cam_job, crf_job, load_model
from cli.options import DATASETS, Parser
from common.errors import UserError
from dataset.spec import BY_CLIP
from pipeline.methods.table import METHODS

if TYPE_CHECKING:
    from dataset.spec import DatasetSpec
    from pipeline.stages.batches import BatchImage
    from pipeline.stages.crf import CrfJob, CrfResult

OUT = Path("output/segment")
PICTURES = ("mask", "overlay", "steps")  # of each photo
MOST_SHOWN = 8  # classes on the sheet of stages
OF_GROUPS = ("all_groups", "first_group", "final_group")
VIEWS = ("input", "pred", "input_pred", *OF_GROUPS, "input_pred_label")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Photos + the names of their classes -> masks, in memory; without names, CLIP supplies them (TagCLIP).",
        "Writes NAME_mask.png (mode L: 0 background, class number, 255 not sure; class index where the data set has no "
        "background), NAME_overlay.png, NAME_steps.png. Without --dataset and --classes the labels may be any words; "
        "without --model OpenAI's ViT-B/16 is asked, or the toy world's CLIP where they are its classes. Photos longer "
        "than --max_side are shrunk for CLIP and the CRF, their masks are not.",
    )
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="image files of any size")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME",
        help="classes in the photos; clip or not given: ask CLIP (with --method segclip not given: all classes)",
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where the pictures go")
    parser.add_argument(
        "--vis",
        nargs="+",
        choices=VIEWS,
        default=[],
        metavar="VIEW",
        help="write these too, as NAME_VIEW.png: input, pred (labels before the CRF, in colours), input_pred (over the "
        "photo), input_pred_label (with names); with --method segclip all_groups (one by one), first_group (on the "
        "patches), final_group (of each pixel)",
    )
    names = parser.add_argument_group("names and prompts")
    names.add_argument("--dataset", choices=DATASETS, help="of a data set; not given: toyworld, or any words")
    names.add_argument("--classes", type=Path, metavar="FILE", help="of a classes file, as for --dataset folder")
    model_options.add_model_options(parser)
    model_options.add_method_options(
        parser, {"max_side": 640}
    )  # both CLIP and the CRF were tuned on images of some 500 pixels
    model_options.add_crf_options(parser)
    model_options.add_tag_options(parser, without_labels=True)
    parser.set_defaults(overwrite=True, palette=False)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from cli.proposals import voters
    from common.files import need_writable
    from dataset.spec import Sample
    from pipeline.stages import run as stage_run
    from pipeline.stages import tags

    if set(args.vis) & set(OF_GROUPS):
        if not hasattr(args, "keep_groups"):
            raise UserError(f"--vis {next(view for view in args.vis if view in OF_GROUPS)}: goes with --method segclip")
        args.keep_groups = True
    names = read_names(args.labels)
    spec = choose_spec(args, names)
    labels = None if names is None else label_indices(spec, names)
    if not args.labels and METHODS[args.method].unlabelled:
        labels = tuple(range(len(spec.classes)))
    files = output_files(args.photos, args.out, (*PICTURES, *dict.fromkeys(args.vis)))
    cams = load_model(cam_job(args, spec, args.out, by_clip=labels is None))
    tagging = tags.set_up(cams.clip, spec, args.out, model_options.tag_settings(args)) if labels is None else None
    need_writable(args.out, "--out")
    tally = console.Tally()
    samples = [Sample(photo.stem, photo, labels or ()) for photo in args.photos]
    scores: dict[str, list[str]] = {}  # of CLIP's labels, by id
    if tagging is not None:
        results, samples = list(tags.tag_samples(tagging, samples)), []
        for result in results:
            if result.scores is None:
                tally.add(result.outcome)
            else:
                samples.append(result.sample)
                scores[result.id] = [f"{result.scores[label]:.2f}" for label in result.labels]
    # The work is done at --max_side; masks of full size get smooth borders.
    voting = voters(args, spec, args.out)
    job = crf_job(args, spec, images=args.out, cams=args.out, out_dir=args.out, truth=None, voting=voting)
    job = voting.prepare(job, samples) if voting else job
    job = replace(job, max_side=args.max_side, smooth=True, mask_ending="_mask.png")
    contents: dict[str, str] = {}

    def show(mapped: "BatchImage", result: "CrfResult") -> None:
        image_id = mapped.sample.id
        contents[image_id] = write_pictures(job, spec, mapped, result, files[image_id], scores.get(image_id, []))
        write_views(spec, mapped, result, {view: files[image_id][view] for view in args.vis}, cams.clip.patch_size)

    photos = {sample.id: sample.image for sample in samples}
    for outcome in stage_run.run(cams, job, samples, set(), job.empty_totals(), show=show):
        if outcome.status == "made":
            print(f"{photos[outcome.id]}: {contents[outcome.id]}")
        tally.add(outcome)
    return tally.report("picture sets", args.out)


def write_pictures(
    job: "CrfJob",
    spec: "DatasetSpec",
    mapped: "BatchImage",
    result: "CrfResult",
    files: dict[str, Path],
    scores: list[str],
) -> str:
    """Write a photo's overlay and the sheet of its stages; returns the shares of the classes in its mask as text."""
    import numpy as np
    from PIL import Image

    from common.files import atomic_write
    from common.images import LARGE, read_within
    from dataset.mask_png import made_here
    from pipeline.stages.crf import full_size
    from pipeline.steps.kinds import to_heat
    from pipeline.steps.maps import enlarge_labels
    from pipeline.steps.masks import mask_values
    from pipeline.steps.regions import resized_maps
    from report.photo_sheet import PhotoRoad, photo_sheet, shares
    from report.pictures import label_overlay

    image, names = result.input, spec.label_names
    _, mask = full_size(job, result)
    photo = np.asarray(read_within(image.photo, LARGE))
    working = (image.rgb.shape[0], image.rgb.shape[1])
    cam, attn = (to_heat(resized_maps(maps, working), image.kind) for maps in mapped.maps[:2])
    values = mask_values(image.keys, job.has_background)[int(job.has_background) :]  # of the classes
    if len(values) > MOST_SHOWN:
        strongest = np.argsort(-attn.mean(axis=(1, 2)), kind="stable")[:MOST_SHOWN]
        values, cam, attn = values[strongest], cam[strongest], attn[strongest]
    labels = enlarge_labels(mask, (photo.shape[0], photo.shape[1]))
    overlay = Image.fromarray(label_overlay(photo, labels, spec.has_background))
    sheet = photo_sheet(PhotoRoad(image.rgb, mask, values, cam, attn, scores, spec.has_background), names)
    for name, picture in (("overlay", overlay), ("steps", sheet)):
        with atomic_write(files[name]) as stream:
            picture.save(stream, "PNG", pnginfo=made_here())
    text = ", ".join(f"{name} {100 * share:.1f} %" for _, name, share in shares(mask, names))
    by_clip = ", ".join(f"{names[value]} {score}" for value, score in zip(values, scores))
    return f"{text}   (labels by CLIP: {by_clip})" if scores else text


def write_views(
    spec: "DatasetSpec", mapped: "BatchImage", result: "CrfResult", files: dict[str, Path], patch: int
) -> None:
    """Write the pictures of --vis; the prediction is that of the maps, before the CRF. Groups were made with patches
    of `patch` pixels."""
    import numpy as np
    from PIL import Image

    from common.files import atomic_write
    from common.images import LARGE, read_within
    from dataset.mask_png import made_here
    from pipeline.steps.maps import enlarge_labels
    from pipeline.steps.masks import labels_at
    from report.groups import group_overlay, group_sheet, on_patches, with_names
    from report.pictures import colour_labels, label_overlay

    if not files:
        return
    image, names = result.input, spec.label_names
    photo = np.asarray(read_within(image.photo, LARGE))
    size = (photo.shape[0], photo.shape[1])
    maps = mapped.maps[1]
    maps = maps if isinstance(maps, np.ndarray) else maps.resized(size)  # of regions
    labels = labels_at(maps, image.kind, image.keys, size, spec.has_background)
    over_photo = label_overlay(photo, labels, spec.has_background)
    groups, patches = (np.zeros(size, np.uint8),) * 2
    if len(mapped.maps) > 2:
        groups = enlarge_labels(mapped.maps[2], size)
        patches = enlarge_labels(on_patches(mapped.maps[2], patch), size)
    views = {
        "input": lambda: photo,
        "pred": lambda: colour_labels(labels),
        "input_pred": lambda: over_photo,
        "input_pred_label": lambda: with_names(over_photo, labels, names, spec.has_background),
        "all_groups": lambda: np.asarray(group_sheet(photo, groups, labels, names)),
        "first_group": lambda: group_overlay(photo, patches),
        "final_group": lambda: group_overlay(photo, groups),
    }
    for view, path in files.items():
        with atomic_write(path) as stream:
            Image.fromarray(views[view]()).save(stream, "PNG", pnginfo=made_here())


def read_names(texts: list[str] | None) -> list[str] | None:
    """The names of `--labels a b` or `--labels a,b`, each once; None when CLIP supplies them."""
    from dataset.names import plain_name

    names = [plain_name(name) for text in texts or [] for name in text.split(",")]
    names = list(dict.fromkeys(name for name in names if name))
    if not names and texts:
        raise UserError("--labels: no name given; expected what the photos show, or clip")
    if names and BY_CLIP in names and len(names) > 1:
        raise UserError("--labels clip: CLIP supplies all labels or none; leave clip out, or the other names")
    return None if not names or names == [BY_CLIP] else names


def choose_spec(args: argparse.Namespace, labels: list[str] | None) -> "DatasetSpec":
    """The classes and prompts: of --classes, of --dataset, the labels themselves, or toyworld's.

    Without --model, labels of which none is a class of the toy world go to the CLIP of their own spec.
    """
    from cli.datasets import FOLDER
    from cli.lookup import dataset_spec

    if args.dataset is not None or args.classes is not None:
        return dataset_spec(args.dataset or FOLDER, args.classes)
    toyworld = dataset_spec("toyworld")
    if args.model is None and (labels is None or not set(toyworld.classes).isdisjoint(labels)):
        return toyworld
    if labels is None:
        raise UserError("--labels: CLIP needs names to choose from; give --classes FILE or --dataset voc12")
    return spec_of_words(labels)


def spec_of_words(labels: list[str]) -> "DatasetSpec":
    """A data set made of the labels themselves, with VOC's background words that are no labels here."""
    from dataset.classes_file import default_background
    from dataset.spec import VOC_THRESHOLD, DatasetSpec

    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in labels}
    background = default_background(groups)
    return DatasetSpec("words", tuple(groups), tuple(groups.values()), background, True, VOC_THRESHOLD)


def label_indices(spec: "DatasetSpec", names: list[str]) -> tuple[int, ...]:
    """The classes' indices, each once; raises UserError with the nearest name for one that is not a class."""
    from dataset.names import hint, name_indices

    indices = name_indices(spec)
    for name in names:
        if name not in indices:
            raise UserError(
                f"--labels {name}: not a class of {spec.name}; {hint(name, spec.classes)} "
                "(any word will do with --model and a pretrained CLIP, without --dataset and --classes)"
            )
    return tuple(dict.fromkeys(indices[name] for name in names))


def output_files(photos: list[Path], folder: Path, kinds: Sequence[str] = PICTURES) -> dict[str, dict[str, Path]]:
    """The path of each picture by photo and kind; raises UserError where one would overwrite another, or a photo."""
    from common.files import is_file

    if is_file(folder):
        raise UserError(f"--out {folder}: a file; expected a folder to write into")
    pictures = [{kind: folder / f"{photo.stem}_{kind}.png" for kind in kinds} for photo in photos]
    taken: dict[Path, Path] = {photo.resolve(): photo for photo in photos}
    for photo, files in zip(photos, pictures):
        for path in files.values():
            if path.resolve() in taken:
                raise UserError(
                    f"{photo}: its {path.name} would overwrite {path} of {taken[path.resolve()]}; rename it"
                )
            taken[path.resolve()] = photo
    return {photo.stem: files for photo, files in zip(photos, pictures)}


if __name__ == "__main__":
    sys.exit(main())
