"""From `--dataset NAME` and the paths given to what the stages need. May import the data sets, dataset and common.

Adding a data set: a folder with its spec, a line in SPECS, and what is special about its paths below.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import need_dir
from dataset.spec import DatasetSpec, Sample
from dataset.voc_layout import VocPaths, read_split, voc_paths, voc_samples

SPECS = {"toyworld": "toyworld.spec", "voc12": "voc12.spec"}
ROOT = Path(__file__).resolve().parent.parent
TOYWORLD_DATA = Path("output/toyworld/data")
DEFAULT_MODELS = {"toyworld": (str(ROOT / "toyworld" / "clip.pt"), None), "voc12": ("ViT-B-16", "openai")}


def dataset_spec(name: str) -> DatasetSpec:
    """The frozen spec of a data set by name."""
    return importlib.import_module(SPECS[name]).SPEC


@dataclass(frozen=True)
class Selection:
    """Which images a command works on."""

    spec: DatasetSpec
    paths: VocPaths
    ids: list[str]

    def need_masks(self) -> Path:
        """The folder of ground-truth masks; raises UserError when there is none."""
        if self.paths.masks is None:
            beside = self.paths.images.parent / "SegmentationClass"
            raise UserError(f"--gt_root is needed to score: no masks in {beside}")
        return need_dir(self.paths.masks, "--gt_root", "one mask PNG an image")

    def samples(self) -> tuple[list[Sample], list[tuple[str, str]]]:
        """Images with labels, and (id, reason) of the ids that have none to be used."""
        return voc_samples(self.paths, self.spec.classes, self.ids)


def select(name: str, img_root: Path | None, split_file: Path | None, gt_root: Path | None) -> Selection:
    """Resolve the paths of a data set; the toy world's images are made when they are asked for and missing."""
    if img_root is None:
        img_root = _default_img_root(name, split_file, gt_root)
    paths = voc_paths(img_root, split_file, gt_root)
    return Selection(dataset_spec(name), paths, read_split(paths.split))


def _default_img_root(name: str, split_file: Path | None, gt_root: Path | None) -> Path:
    if name == "toyworld":
        return _toyworld_images()
    if gt_root is not None and split_file is not None:
        return gt_root  # scoring needs no images
    raise UserError(f"--img_root is needed with --dataset {name}: the JPEGImages folder of the data set")


def _toyworld_images() -> Path:
    """The demo images, made when their split file, the last file written, is not there."""
    images = TOYWORLD_DATA / "JPEGImages"
    if not (TOYWORLD_DATA / "ImageSets" / "Segmentation" / "train.txt").is_file():
        from toyworld.layout import write_dataset
        from toyworld.spec import DEMO_COUNT, DEMO_SEED

        print(f"making {DEMO_COUNT} toy-world images (seed {DEMO_SEED}) in {TOYWORLD_DATA}")
        write_dataset(TOYWORLD_DATA, DEMO_SEED, DEMO_COUNT)
    return images
