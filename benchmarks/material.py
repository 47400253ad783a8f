"""What the benchmarks work on: photos in VOC layout, smooth maps, weights. All seeded; nothing is downloaded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.measure import ROOT
from clip.load import load_clip
from common.errors import UserError
from common.files import atomic_write, write_text
from common.outcome import Outcome
from dataset.spec import Sample
from dataset.split_file import read_split
from dataset.voc_layout import voc_paths, voc_samples
from pipeline.methods.method import CamSettings
from pipeline.stages.cams import CamJob, ModelSource
from segclip.load import begin_from
from toyworld.spec import WEIGHTS
from voc12.spec import CLASSES, SPEC

VOC_MINI = ROOT.parent / "shared" / "voc_mini"  # forty photos of VOC, not part of the project
SPLIT = Path("ImageSets") / "Segmentation" / "train.txt"
VOC_SIZES = ((375, 500), (333, 500), (500, 375), (375, 500), (500, 333), (366, 500))  # (H, W)
MODELS = ("ViT-B/16", "toy")


@dataclass(frozen=True)
class Photos:
    """Images in VOC layout. `source` says what they are; `root` is the folder above JPEGImages."""

    root: Path
    split: Path
    source: str

    @property
    def ids(self) -> list[str]:
        return read_split(self.split)

    @property
    def masks(self) -> Path:
        return self.root / "SegmentationClass"

    def options(self) -> list[str]:
        """The options of the stages that name them."""
        return ["--dataset", "voc12", "--img_root", str(self.root / "JPEGImages"), "--split_file", str(self.split)]

    def samples(self) -> list[Sample]:
        samples, failures = voc_samples(voc_paths(self.root, self.split), SPEC.classes, self.ids)
        if failures:
            raise UserError(f"{self.root}: {failures[0]}")
        return samples


def photos(count: int, folder: Path, source: Path = VOC_MINI) -> Photos:
    """`count` photos of VOC from all over the small set, or as many generated ones in `folder` where that is absent."""
    ids = sorted(path.stem for path in (source / "JPEGImages").glob("*.jpg"))
    if not ids:
        return generated(count, folder)
    chosen = ids[:: max(1, len(ids) // count)][:count]
    split = folder / "photos.txt"
    write_text(split, "".join(f"{image_id}\n" for image_id in chosen))
    return Photos(source, split, f"{len(chosen)} photos of VOC")


def generated(
    count: int, folder: Path, sizes: Sequence[tuple[int, int]] = VOC_SIZES, classes: int | None = None, first: int = 0
) -> Photos:
    """Smooth pictures with grain, of these sizes in turn, their annotations, and masks of smooth regions.

    classes  how many each shows; not given: 1, 2, 3 in turn
    first    number of the first one, which is its seed too
    """
    ids = [f"drawn_{seed:05d}" for seed in range(first, first + count)]
    for seed, image_id in enumerate(ids, first):
        random = np.random.default_rng(seed)
        size, number = sizes[seed % len(sizes)], classes or 1 + seed % 3
        labels = sorted(random.permutation(len(CLASSES))[:number].tolist())
        regions = np.stack([smooth(random, size, 8) for _ in (0, *labels)]).argmax(axis=0)
        mask = np.array([0, *(label + 1 for label in labels)], np.uint8)[regions]
        patches = random.integers(0, 256, (max(2, size[0] // 16), max(2, size[1] // 16), 3), np.uint8)
        patches = cv2.resize(patches, size[::-1], interpolation=cv2.INTER_CUBIC)
        photo = (patches + random.normal(0, 3, patches.shape)).clip(0, 255).astype(np.uint8)
        with atomic_write(folder / "JPEGImages" / f"{image_id}.jpg") as stream:
            Image.fromarray(photo).save(stream, "JPEG", quality=95)
        with atomic_write(folder / "SegmentationClass" / f"{image_id}.png") as stream:
            Image.fromarray(mask).save(stream, "PNG")
        objects = "".join(f"<object><name>{CLASSES[label]}</name></object>" for label in labels)
        write_text(folder / "Annotations" / f"{image_id}.xml", f"<annotation>{objects}</annotation>\n")
    write_text(folder / SPLIT, "".join(f"{image_id}\n" for image_id in ids))
    return Photos(folder, folder / SPLIT, f"{count} generated images")


def smooth(random: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """A smooth random map (H, W) float32 from 0 to 1, both reached, with some `cells` bumps a side."""
    coarse = random.random((max(2, min(cells, size[0])), max(2, min(cells, size[1]))), np.float32) ** 2
    blurred = cv2.GaussianBlur(coarse, (0, 0), 1.0)
    grown = cv2.resize(blurred, size[::-1], interpolation=cv2.INTER_LINEAR)
    lifted = grown - grown.min()
    return lifted / lifted.max()


def copies(photos: Photos, folder: Path, count: int) -> Photos:
    """`count` copies of the given images, over and over, under new names."""
    ids, names = photos.ids, [f"copy_{index:06d}" for index in range(count)]
    for kind, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClass", ".png")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            original = photos.root / kind / f"{ids[index % len(ids)]}{suffix}"
            copyfile(original, folder / kind / f"{name}{suffix}")
    write_text(folder / SPLIT, "".join(f"{name}\n" for name in names))
    return Photos(folder, folder / SPLIT, f"{count} copies of {photos.source}")


def cam_job(weights: Path, out_dir: Path, device: str = "cpu", **more: Any) -> CamJob:
    """CLIP-ES on VOC's classes with these weights; `more`: other fields of the job."""
    settings = more.pop("settings", CamSettings())
    return CamJob(SPEC, ModelSource(str(weights), device=device), settings, out_dir, **more)


def need_all(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """The same outcomes. Raises UserError for one that was not made."""
    for outcome in outcomes:
        if outcome.status != "made":
            raise UserError(f"{outcome.id}: {outcome.status} {outcome.reason}")
        yield outcome


def model_file(name: str, folder: Path) -> Path:
    """The weight file of one of MODELS: the toy world's, or a random ViT-B/16, made in `folder`.

    The second is float16, as OpenAI's files. Random weights take the same time as trained ones. Queries and keys are
    enlarged: as they are drawn, attention is all but uniform, refined maps are all but flat, and after their min-max
    normalisation one would compare rounding errors (measured: 2e-3 before, 2e-5 after).
    """
    path = folder / "random_vit_b_16.pt"
    if name == "toy" or path.is_file():
        return WEIGHTS if name == "toy" else path
    import open_clip
    from open_clip.model import CLIP

    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    torch.manual_seed(0)
    model = CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}, quick_gelu=True)
    for block in model.visual.transformer.resblocks:
        block.attn.in_proj_weight.data[: 2 * block.attn.embed_dim] *= 4
    state = {key: value if key == "logit_scale" else value.half() for key, value in model.state_dict().items()}
    with atomic_write(path) as stream:
        torch.save(state, stream)
    return path


def segclip_file(name: str, folder: Path) -> Path:
    """The weight file of a SegCLIP, made in `folder`, that begins from one of MODELS; nothing in it is trained."""
    path = folder / f"segclip_of_{name.replace('/', '_')}.bin"
    if not path.is_file():
        clip = load_clip(str(model_file(name, folder)), activation="quick_gelu")
        network = begin_from(clip, torch.Generator().manual_seed(0), decoder=False)
        with atomic_write(path) as stream:
            torch.save(network.state_dict(), stream)
    return path


def dino_folder(folder: Path, small: bool = False) -> Path:
    """A random ViT-B/16 in transformers' form, or a very small one."""
    path = folder / "dino"
    if not path.is_dir():
        from transformers import ViTConfig, ViTModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.manual_seed(0)
        network = ViTModel(
            ViTConfig(hidden_size=48, num_hidden_layers=2, intermediate_size=96) if small else ViTConfig()
        )
        for weight in network.parameters():
            weight.data *= 2  # else all patches are alike
        network.save_pretrained(path)
    return path
