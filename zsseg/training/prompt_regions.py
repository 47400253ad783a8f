"""The regions that prompts are learned from: one class of one mask, cropped (docs/zsseg.md).

A region at a position of the run depends on the seed and the position alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from clip.image import MEAN, STD
from common.errors import UserError
from common.parallel import ordered_map
from dataset.spec import IGNORE_INDEX
from training.batches import shuffled
from training.pairs import Pair, Problem, read_pair
from zsseg.training.prompt_settings import LEAST_AREA, RATIOS, PromptSettings

TRIES = 10  # to find a crop of the area and shape that were drawn; and regions that are tried for a sample
TEST_SIDE = 224
_CROP = 3  # what a random number is for; training.loop and training.batches take others

Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Region:
    """A label of a mask."""

    pair: Pair
    label: int


@dataclass(frozen=True)
class RegionBatch:
    """images (B, 3, H, W) float32 as CLIP takes them, classes (B,) int64, and the images that could not be read."""

    images: Tensor
    classes: Tensor
    problems: tuple[Problem, ...] = ()

    def to(self, device: torch.device) -> "RegionBatch":
        images, classes = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.classes))
        return RegionBatch(images, classes, self.problems)


def regions_of(pairs: Sequence[Pair], num_labels: int, labels: Collection[int]) -> tuple[list[Region], list[Problem]]:
    """A region for each of these labels in each mask, in order, and what is wrong with masks that are left out."""

    def present(pair: Pair) -> list[int] | Problem:
        try:
            mask = read_pair(pair, num_labels)[1]
        except UserError as error:
            return pair.id, str(error)
        assert mask is not None
        return np.unique(mask).tolist()

    regions, problems, wanted = [], [], set(labels)
    for pair, found in zip(pairs, ordered_map(present, pairs, 2)):
        if isinstance(found, tuple):
            problems.append(found)
        else:
            regions += [Region(pair, label) for label in found if label in wanted]
    return regions, problems


def balanced(labels: Sequence[int], per_class: int) -> list[int]:
    """Indices of regions, class by class in the order of their first one.

    A class with at least `per_class` regions gives so many, drawn with replacement, the others give all. What is drawn
    is always the same.
    """
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label, []).append(index)
    rng, chosen = np.random.default_rng(0), []
    for indices in by_label.values():
        if len(indices) < per_class:
            chosen += indices
        else:
            chosen += [indices[place] for place in rng.choice(len(indices), per_class)]
    return chosen


def box_of(inside: np.ndarray, expand: float = 1.0) -> Box:
    """The box of a mask (H, W) bool with at least one pixel, enlarged about its centre.

    As published, the image's last row and column are never in it.
    """
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    width, height = int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
    if expand != 1:
        middle = left + width / 2, top + height / 2
        width, height = int(width * expand), int(height * expand)
        left, top = max(0, int(middle[0] - width / 2)), max(0, int(middle[1] - height / 2))
    right, bottom = min(left + width, inside.shape[1] - 1), min(top + height, inside.shape[0] - 1)
    return left, top, max(1, right - left), max(1, bottom - top)


def random_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """A part of random area and shape of a box of this size; in its middle where ten draws do not fit."""
    for _ in range(TRIES):
        area = height * width * rng.uniform(LEAST_AREA, 1)
        ratio = np.exp(rng.uniform(*np.log(RATIOS)))
        wide, high = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, wide, high
    wide, high = width, height
    if width / height < RATIOS[0]:
        high = round(width / RATIOS[0])
    elif width / height > RATIOS[1]:
        wide = round(height * RATIOS[1])
    return (width - wide) // 2, (height - high) // 2, wide, high


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """A part of (H, W, ...)."""
    left, top, width, height = box
    return image[top : top + height, left : left + width]


def resized(image: np.ndarray, inside: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 3) uint8 and (h, w) bool at another size: bilinear with antialiasing, and by PyTorch's nearest."""
    picture = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    mask = F.interpolate(torch.from_numpy(inside.copy()).byte()[None, None], size=size, mode="nearest")
    return np.asarray(picture), mask[0, 0].bool().numpy()


def middle_view(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle (224, 224) of an image (h, w, 3) and its mask (h, w), padded with 0 and 255 where it is smaller."""
    for axis in (0, 1):
        missing = max(0, TEST_SIDE - mask.shape[axis])
        around = [(0, 0), (0, 0), (0, 0)]
        around[axis] = (missing // 2, missing - missing // 2)
        image = np.pad(image, around)
        mask = np.pad(mask, around[:2], constant_values=IGNORE_INDEX)
        start = round((mask.shape[axis] - TEST_SIDE) / 2)
        image = np.take(image, range(start, start + TEST_SIDE), axis)
        mask = np.take(mask, range(start, start + TEST_SIDE), axis)
    return image, mask


def network_input(images: Tensor, inside: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 and (B, H, W) bool to (B, 3, H, W) float32 as CLIP takes them.

    Pixels outside get CLIP's mean once more after they were normalised, as published: a light grey, not 0.
    """
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    normalised = (images.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
    return torch.where(inside[:, None], normalised, mean)


class RegionSamples(Dataset):
    """The region at each position of a run; each region of the balanced list comes once a round."""

    def __init__(
        self, regions: Sequence[Region], classes: Mapping[int, int], num_labels: int, settings: PromptSettings
    ) -> None:
        """`classes`: the class of each label."""
        self.regions, self.classes, self.num_labels, self.settings = list(regions), classes, num_labels, settings

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray, int, tuple[Problem, ...]]:
        """(H, W, 3) uint8, (H, W) bool, class and problems.

        A region whose crop shows nothing of it, or whose image cannot be read, is replaced by another one; after ten of
        them an empty crop is given.
        """
        settings, problems = self.settings, []
        rng = np.random.default_rng([settings.seed, _CROP, position])
        place = shuffled(settings.seed, position, len(self.regions))
        for _ in range(TRIES):
            region = self.regions[place]
            place = int(rng.integers(len(self.regions)))
            try:
                image, mask = read_pair(region.pair, self.num_labels)
            except UserError as error:
                problems.append((region.pair.id, str(error)))
                continue
            assert mask is not None
            picture, inside = self.view(image, mask == region.label, rng)
            if inside.any():
                break
        else:
            picture, inside = np.zeros((*settings.crop, 3), np.uint8), np.zeros(settings.crop, bool)
        return picture, inside, self.classes[region.label], tuple(problems)

    def view(self, image: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random crop of a region."""
        if not inside.any():
            return image, inside
        box = box_of(inside, self.settings.expand)
        part = random_box(box[3], box[2], rng)
        image, inside = resized(cut(cut(image, box), part), cut(cut(inside, box), part), self.settings.crop)
        if self.settings.flip and rng.random() < 0.5:
            image, inside = image[:, ::-1], inside[:, ::-1]
        return image, inside


def collate(samples: Sequence[tuple[np.ndarray, np.ndarray, int, tuple[Problem, ...]]]) -> RegionBatch:
    """A batch of samples."""
    images, inside, classes, problems = zip(*samples)
    stacked, masks = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(inside))
    return RegionBatch(network_input(stacked, masks), torch.tensor(classes), tuple(sum(problems, ())))


def held_out_regions(pair: Pair, num_labels: int, labels: Collection[int], expand: float) -> RegionBatch:
    """All regions of an image with these labels, as they are tested; classes are labels. Raises UserError."""
    image, mask = read_pair(pair, num_labels)
    assert mask is not None
    pictures, insides, found = [], [], [label for label in np.unique(mask).tolist() if label in labels]
    for label in found:
        box = box_of(mask == label, expand)
        picture, part = middle_view(cut(image, box), cut(mask, box))
        pictures.append(picture)
        insides.append(part == label)
    if not found:
        return RegionBatch(torch.zeros(0, 3, TEST_SIDE, TEST_SIDE), torch.zeros(0, dtype=torch.int64))
    stacked, masks = torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(insides))
    return RegionBatch(network_input(stacked, masks), torch.tensor(found))
