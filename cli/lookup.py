"""The images, labels and paths that the options of the data select; each data set's spec holds its specifics."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.datasets import FOLDER, spec_of
from common.errors import UserError
from common.files import is_file, need_dir
from dataset.classes_file import read_classes
from dataset.folder import Images, find_images, images_of, restricted
from dataset.ids import without_suffix
from dataset.labels import WORDS, read_labels_argument
from dataset.mask_folder import SUFFIX, MaskFolder, Masks, check_masks
from dataset.mask_values import parse_mask_values
from dataset.matching import match, print_errors, repeated_images
from dataset.references import split_ids
from dataset.spec import BY_PATH, EVERY_CLASS, LABELLED_SPLIT, VOC, DatasetSpec, Sample
from dataset.split_file import read_references, read_split
from dataset.voc_layout import VocPaths, voc_paths, voc_samples

PALETTES_OF = {"voc": "voc12", "coco-stuff": "cocostuff", "ade20k": "ade20k", "cityscapes": "cityscapes"}


def dataset_spec(name: str, classes: Path | None = None) -> DatasetSpec:
    """The frozen spec of a data set by name; that of a folder is read from its classes file."""
    if name == FOLDER:
        if classes is None:
            raise UserError("--classes is needed with --dataset folder: a text file, one class a line")
        return read_classes(classes)
    if classes is not None:
        raise UserError(f"--classes goes with --dataset folder; the classes of {name} are fixed")
    return spec_of(name)


@dataclass(frozen=True)
class Selection:
    """Which images a command works on.

    paths      where things lie; voc_layout.find_image(paths.images, id) is the image of an id
    problems   (id, reason) of images that are left out and listed as failed
    labelled   the samples, where --labels was given
    summary    one line for people about those labels
    wanted     the classes of --labels; empty where they are all classes
    sure       whether people labelled the images, as far as the file tells
    masks      how masks are called and what their values stand for; None: `<id>.png` of mask values
    """

    spec: DatasetSpec
    paths: VocPaths
    ids: list[str]
    problems: list[tuple[str, str]] = field(default_factory=list)
    labelled: list[Sample] | None = None
    summary: str = ""
    wanted: frozenset[int] = frozenset()
    sure: bool = True
    masks: MaskFolder | None = None

    def print_labels(self) -> None:
        """Print which form of labels was read and what it holds."""
        if self.summary:
            print(f"labels  {self.summary}")

    def need_masks(self) -> Masks:
        """The ground-truth masks; raises UserError when there is no folder of them."""
        if self.paths.masks is None:
            reason = f"{self.spec.name} has no usual place for masks"
            if self.spec.raw is not None:
                reason = f"python -m scripts.prepare_dense {self.spec.name} --masks_out DIR makes the masks"
            elif self.paths.annotations:
                reason = f"no masks in {self.paths.images.parent / 'SegmentationClass'}"
            raise UserError(f"--gt_root is needed to score: {reason}")
        folder = need_dir(self.paths.masks, "--gt_root", "one mask PNG an image")
        return self.as_given(folder)

    def as_given(self, folder: Path) -> Masks:
        """A folder of masks with what --mask_suffix and --mask_values say of them."""
        return folder if self.masks is None else replace(self.masks, folder=folder)

    def check_masks(self, masks: Masks, option: str) -> None:
        """Raise UserError for masks that show no class, or not the classes of --labels (dataset/mask_folder.py)."""
        check_masks(masks, self.ids, self.spec, option, self.wanted, self.sure)

    def samples(self) -> tuple[list[Sample], list[tuple[str, str]]]:
        """The samples, and (id, reason) of the ids without usable labels."""
        if self.labelled is not None:
            return self.labelled, self.problems
        if self.spec.layout == LABELLED_SPLIT:
            return self.labelled_by(str(self.paths.split)).samples()
        if self.paths.annotations is None:
            every = "" if self.spec.has_background else f", or `{EVERY_CLASS}` for all classes (--method maskclip)"
            option = f"--labels is needed with --dataset {self.spec.name}"
            raise UserError(f"{option}: a file, a folder, or classes as a,b{every}")
        return voc_samples(self.paths, self.spec.classes, self.ids)

    def labelled_by(self, labels: str) -> "Selection":
        """The images that `--labels` labels; what does not fit is reported on stderr."""
        all_of_a_folder = self.paths.split == self.paths.images
        images = images_of(self.paths.images, self.ids)
        images.problems[:0] = self.problems
        return _labelled(self, labels, images, None if all_of_a_folder else self.ids)


def select_from(args: argparse.Namespace, images_needed: bool = False, with_labels: bool = True) -> Selection:
    """`select` by the options of cli/options.py. Without `with_labels` --labels is ignored."""
    gt_root = getattr(args, "gt_root", None)  # not an option of the commands that score nothing
    labels = args.labels if with_labels else None
    selection = select(args.dataset, args.img_root, args.split_file, gt_root, args.classes, labels, images_needed)
    return with_mask_options(selection, args)


def with_mask_options(selection: Selection, args: argparse.Namespace) -> Selection:
    """The selection with --mask_suffix and --mask_values, where the command has them; raises UserError."""
    texts, suffix = getattr(args, "mask_values", None), getattr(args, "mask_suffix", SUFFIX)
    if not texts and suffix == SUFFIX:
        return selection
    names = {palette: spec_of(data_set).classes for palette, data_set in PALETTES_OF.items()}
    values = parse_mask_values(texts, selection.spec, names) if texts else None
    return replace(selection, masks=MaskFolder(Path(), suffix, values))


def select(
    name: str,
    img_root: Path | None,
    split_file: Path | None,
    gt_root: Path | None,
    classes: Path | None = None,
    labels: str | None = None,
    images_needed: bool = False,
) -> Selection:
    """Select the images of a data set; missing images of the toy world are made.

    labels         the value of `--labels` (dataset/labels.py), in place of the data set's own labels; what does not
                   fit is reported on stderr and left out
    images_needed  images are needed to score
    """
    spec = dataset_spec(name, classes)
    if img_root is None and spec.make_images is not None:
        img_root = spec.make_images()
    if img_root is None:
        if gt_root is None or split_file is None or images_needed:
            raise UserError(f"--img_root is needed with --dataset {name}: {spec.images}")
        if spec.layout == BY_PATH:
            ids = list(dict.fromkeys(map(without_suffix, read_references(split_file))))
        else:
            ids = read_split(split_file, labelled=spec.layout == LABELLED_SPLIT)
        return Selection(spec, VocPaths(gt_root, None, split_file, gt_root), ids)
    if spec.layout == BY_PATH or (spec.layout == LABELLED_SPLIT and split_file is None and labels is not None):
        return _folder_images(spec, img_root, split_file, gt_root, labels)
    if spec.layout == VOC:
        paths = voc_paths(img_root, split_file, gt_root)
        if split_file is None and not is_file(paths.split):
            wanted = "expected JPEGImages of a data set in VOC's layout, or the folder above it, or --split_file FILE"
            raise UserError(f"--img_root {img_root}: no {paths.split} that lists its images; {wanted}")
        if not spec.has_usual_masks:
            paths = replace(paths, masks=gt_root)
    else:
        need_dir(img_root, "--img_root", spec.images)
        if split_file is None:
            example = "lines such as `COCO_train2014_000000000009 45 49 50`"
            remedy = f"{example}; python -m scripts.prepare_{spec.name} makes one"
            raise UserError(f"--split_file is needed with --dataset {spec.name}: {remedy}")
        paths = VocPaths(img_root, None, split_file, gt_root)
    selection = Selection(spec, paths, read_split(paths.split, labelled=spec.layout == LABELLED_SPLIT))
    return selection if labels is None else selection.labelled_by(labels)


def _folder_images(
    spec: DatasetSpec, img_root: Path, split_file: Path | None, gt_root: Path | None, labels: str | None
) -> Selection:
    """All images of a folder, or those of the split file."""
    images = find_images(img_root)
    ids = None if split_file is None else split_ids(images, split_file)
    if ids is not None:
        images = restricted(images, ids)
    paths = VocPaths(img_root, None, split_file or img_root, gt_root)
    selection = Selection(spec, paths, list(images.paths) if ids is None else ids, images.problems)
    if labels is not None:
        return _labelled(selection, labels, images, ids)
    print_errors(repeated_images(img_root, images))
    return selection


def _labelled(selection: Selection, labels: str, images: Images, split: list[str] | None) -> Selection:
    """The images that have labels; the others are reported now and listed as failed."""
    table = read_labels_argument(labels, selection.spec, images.paths)
    result = match(selection.spec, selection.paths.images, images, table, split)
    result.print_lines()
    ids = [sample.id for sample in result.samples]
    names = {name for entry in table.entries.values() for name in entry.names}
    wanted = {label for sample in result.samples for label in sample.labels} if labels != EVERY_CLASS else ()
    sure = table.form != WORDS or not all(map(str.isdecimal, names))  # indices alone: CLIP may have written them
    return replace(
        selection,
        ids=ids,
        problems=result.problems,
        labelled=result.samples,
        summary=table.summary(),
        wanted=frozenset(wanted),
        sure=sure,
    )
