"""From `--dataset NAME` and the paths given to what the stages need.

Adding a data set: a module with its spec, a line in SPECS, and what is special about its paths below.
"""

import argparse
import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UserError
from common.files import need_dir
from dataset.classes_file import read_classes
from dataset.folder import Images, find_images, images_of, read_ids, restricted
from dataset.labels import read_labels_argument
from dataset.matching import match, repeated_images, tell_errors
from dataset.spec import EVERY_CLASS, DatasetSpec, Sample
from dataset.voc_layout import VocPaths, read_split, voc_paths, voc_samples

SPECS = {
    "toyworld": "toyworld.spec",
    "voc12": "voc12.spec",
    "coco14": "coco14.spec",
    "voc20": "voc12.voc20",
    "context59": "voc12.context59",
    "cocostuff": "coco14.cocostuff",
    "ade20k": "dataset.ade20k",
    "cityscapes": "dataset.cityscapes",
}
FOLDER = "folder"  # a user's own images, with the classes of --classes
ROOT = Path(__file__).resolve().parent.parent
TOYWORLD_DATA = Path("output/toyworld/data")
OPENAI = ("ViT-B-16", "openai")
DEFAULT_MODELS: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys((*SPECS, FOLDER), OPENAI),
    "toyworld": (str(ROOT / "toyworld" / "clip.pt"), None),
}
HOLDS = {  # what --img_root is
    "voc12": "the JPEGImages folder of the data set",
    "coco14": "the folder of COCO's images (train2014)",
    "voc20": "the JPEGImages folder of VOC2012",
    "context59": "the JPEGImages folder of VOC2010",
    "cocostuff": "the folder of COCO's images (train2017)",
    "ade20k": "the folder of its images (images/training)",
    "cityscapes": "the folder of its cities (leftImg8bit/train)",
    FOLDER: "the folder of your images",
}
AS_A_FOLDER = (FOLDER, "context59", "cocostuff", "ade20k", "cityscapes")  # images by path; labels and masks are given


def dataset_spec(name: str, classes: Path | None = None) -> DatasetSpec:
    """The frozen spec of a data set by name; that of a folder is read from its classes file."""
    if name == FOLDER:
        if classes is None:
            raise UserError("--classes is needed with --dataset folder: a text file, one class a line")
        return read_classes(classes)
    if classes is not None:
        raise UserError(f"--classes goes with --dataset folder; the classes of {name} are fixed")
    return importlib.import_module(SPECS[name]).SPEC


@dataclass(frozen=True)
class Selection:
    """Which images a command works on.

    paths      where things lie; voc_layout.find_image(paths.images, id) is the image of an id
    problems   (id, reason) of images that are left out, to be listed as failed
    labelled   the samples, where labels were given and are read already
    """

    spec: DatasetSpec
    paths: VocPaths
    ids: list[str]
    problems: list[tuple[str, str]] = field(default_factory=list)
    labelled: list[Sample] | None = None

    def need_masks(self) -> Path:
        """The folder of ground-truth masks; raises UserError when there is none."""
        if self.paths.masks is None:
            raise UserError(f"--gt_root is needed to score: {self._without_masks()}")
        return need_dir(self.paths.masks, "--gt_root", "one mask PNG an image")

    def _without_masks(self) -> str:
        if not self.spec.has_background:
            return f"python -m scripts.prepare_dense {self.spec.name} --masks_out DIR makes the masks"
        if self.paths.annotations:
            return f"no masks in {self.paths.images.parent / 'SegmentationClass'}"
        return f"{self.spec.name} has no usual place for masks"

    def samples(self) -> tuple[list[Sample], list[tuple[str, str]]]:
        """Images with labels, and (id, reason) of the ids that have none to be used."""
        if self.labelled is not None:
            return self.labelled, self.problems
        if self.spec.name == "coco14":  # its split file holds the labels too
            return self.labelled_by(str(self.paths.split)).samples()
        if self.paths.annotations is None:
            known = "" if self.spec.has_background else f", or `{EVERY_CLASS}` for all classes (--method maskclip)"
            needed = f"--labels is needed with --dataset {self.spec.name}"
            raise UserError(f"{needed}: a file, a folder, or classes as a,b{known}")
        return voc_samples(self.paths, self.spec.classes, self.ids)

    def labelled_by(self, labels: str) -> "Selection":
        """Those of the images that have labels in what `--labels` was given; what does not fit is told on stderr."""
        all_of_a_folder = self.paths.split == self.paths.images
        images = images_of(self.paths.images, self.ids)
        images.problems[:0] = self.problems
        return _labelled(self, labels, images, None if all_of_a_folder else self.ids)


def select_from(args: argparse.Namespace, images_needed: bool = False, with_labels: bool = True) -> Selection:
    """What the options of cli/options.py ask for; see `select`. Without `with_labels` --labels is not looked at."""
    gt_root = getattr(args, "gt_root", None)  # not an option of the commands that score nothing
    labels = args.labels if with_labels else None
    return select(args.dataset, args.img_root, args.split_file, gt_root, args.classes, labels, images_needed)


def select(
    name: str,
    img_root: Path | None,
    split_file: Path | None,
    gt_root: Path | None,
    classes: Path | None = None,
    labels: str | None = None,
    images_needed: bool = False,
) -> Selection:
    """Resolve the paths of a data set; the toy world's images are made when they are asked for and missing.

    labels         what `--labels` was given (dataset/labels.py), in place of the data set's own labels; what does not
                   fit together is told on stderr and left out
    images_needed  whether images are needed to score
    """
    spec = dataset_spec(name, classes)
    if img_root is None and gt_root is not None and split_file is not None and not images_needed and name != "toyworld":
        return Selection(spec, VocPaths(gt_root, None, split_file, gt_root), _read_ids(name, split_file))
    if img_root is None:
        img_root = _default_img_root(name)
    if name in AS_A_FOLDER or (name == "coco14" and split_file is None and labels is not None):
        return _own_images(spec, img_root, split_file, gt_root, labels)
    paths = _coco_paths(img_root, split_file, gt_root) if name == "coco14" else voc_paths(img_root, split_file, gt_root)
    if not spec.has_background:  # SegmentationClass counts from the background on
        paths = replace(paths, masks=gt_root)
    selection = Selection(spec, paths, read_split(paths.split))
    return selection if labels is None else selection.labelled_by(labels)


def _read_ids(name: str, split_file: Path) -> list[str]:
    return read_ids(split_file) if name in AS_A_FOLDER else read_split(split_file)


def _default_img_root(name: str) -> Path:
    if name == "toyworld":
        return _toyworld_images()
    raise UserError(f"--img_root is needed with --dataset {name}: {HOLDS[name]}")


def _coco_paths(img_root: Path, split_file: Path | None, gt_root: Path | None) -> VocPaths:
    need_dir(img_root, "--img_root", HOLDS["coco14"])
    if split_file is None:
        made = "lines such as `COCO_train2014_000000000009 45 49 50`; python -m scripts.prepare_coco14 makes one"
        raise UserError(f"--split_file is needed with --dataset coco14: {made}")
    return VocPaths(img_root, None, split_file, gt_root)


def _own_images(
    spec: DatasetSpec, img_root: Path, split_file: Path | None, gt_root: Path | None, labels: str | None
) -> Selection:
    """All images of a folder, or those of the split file."""
    ids = read_ids(split_file) if split_file else None
    images = find_images(img_root)
    if ids is not None:
        ids = list(dict.fromkeys(images.spelled(ids)))
        images = restricted(images, ids)
    paths = VocPaths(img_root, None, split_file or img_root, gt_root)
    selection = Selection(spec, paths, list(images.paths) if ids is None else ids, images.problems)
    if labels is not None:
        return _labelled(selection, labels, images, ids)
    tell_errors(repeated_images(img_root, images))
    return selection


def _labelled(selection: Selection, labels: str, images: Images, split: list[str] | None) -> Selection:
    """The images that have labels; whatever else was found is told now and listed as failed."""
    table = read_labels_argument(labels, selection.spec, images.paths)
    found = match(selection.spec, selection.paths.images, images, table, split)
    found.tell()
    ids = [sample.id for sample in found.samples]
    return replace(selection, ids=ids, problems=found.problems, labelled=found.samples)


def _toyworld_images() -> Path:
    """The demo images, made when their split file, the last file written, is not there."""
    images = TOYWORLD_DATA / "JPEGImages"
    if not (TOYWORLD_DATA / "ImageSets" / "Segmentation" / "train.txt").is_file():
        from toyworld.layout import write_dataset
        from toyworld.spec import DEMO_COUNT, DEMO_SEED

        print(f"making {DEMO_COUNT} toy-world images (seed {DEMO_SEED}) in {TOYWORLD_DATA}")
        write_dataset(TOYWORLD_DATA, DEMO_SEED, DEMO_COUNT)
    return images
