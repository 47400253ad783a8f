"""Prompts for segment-anything from labels, and labels from its answers (docs/methods.md, section 9.2; Trident, Shi et
al., 2024). Without torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = np.ones((3, 3), np.uint8)  # of a pixel: eight


@dataclass(frozen=True)
class Prompts:
    """What segment-anything is asked for, in pixels: n connected parts of classes.

    planes  (n,) which of the probabilities each is of
    parts   n parts: the rows and columns of its box, and what of the box it is (h, w) bool
    boxes   (n, 4) float32: left, top, right, bottom
    points  (n, 2) float32: x, y of the pixel with the highest probability
    """

    planes: np.ndarray
    parts: list[tuple[tuple[slice, slice], np.ndarray]]
    boxes: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.parts)


def prompts_of(probabilities: np.ndarray, first: int, least: float, area: int) -> Prompts:
    """The prompts of an image with probabilities (k, H, W).

    first  planes before it, the background's, get none
    least  of the highest probability of a part
    area   of a part, in pixels
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    best = probabilities.argmax(axis=0)
    planes, parts, boxes, points = [], [], [], []
    for plane in range(first, len(probabilities)):
        numbers, count = ndimage.label(best == plane, NEIGHBOURS)
        for number, place in enumerate(ndimage.find_objects(numbers, count), 1):
            inside = numbers[place] == number
            values = np.where(inside, probabilities[plane][place], -1)
            if np.count_nonzero(inside) < area or values.max() < least:
                continue
            rows, columns = place
            y, x = np.unravel_index(values.argmax(), values.shape)
            planes.append(plane)
            parts.append((place, inside))
            boxes.append((columns.start, rows.start, columns.stop, rows.stop))
            points.append((columns.start + x + 0.5, rows.start + y + 0.5))
    shape = (np.array(boxes, np.float32).reshape(-1, 4), np.array(points, np.float32).reshape(-1, 2))
    return Prompts(np.array(planes, np.int64), parts, *shape)


def answered(
    probabilities: np.ndarray, prompts: Prompts, answers: Iterable[tuple[np.ndarray, float]], least: float
) -> np.ndarray:
    """The winning plane (H, W) of each pixel after the answers.

    answers  for each prompt the logits (H, W) of one mask, and its quality as the network sees it
    least    masks above this quality stand in place of their part; else the part stays as it is

    A pixel in such a mask or part has the plane with the largest sigmoid(logit) times probability, or probability
    alone in parts that stay; all other pixels keep theirs.
    """
    highest = np.zeros(probabilities.shape[1:], np.float32)
    result = probabilities.argmax(axis=0)
    for plane, (place, inside), (logits, quality) in zip(prompts.planes, prompts.parts, answers):
        scores = probabilities[plane][place] * inside
        if quality > least:
            place = (slice(None), slice(None))
            scores = np.where(logits > 0, probabilities[plane] / (1 + np.exp(-logits.clip(-30, 30))), 0)
        wins = scores > highest[place]
        result[place][wins], highest[place][wins] = plane, scores[wins]
    return result
