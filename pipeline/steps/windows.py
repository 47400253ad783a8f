"""Sliding windows: an image larger than what a network sees at once is worked on in parts, which overlap."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

TOGETHER = 16  # windows that go through the network together
Place = tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive


def window_places(size: tuple[int, int], crop: int, stride: int) -> list[Place]:
    """The windows of an image (H, W), row by row. One that would leave the image is moved back inside.

    crop    side of a window; 0: the whole image, and where a side of the image is shorter, all of it
    stride  between windows, as mmsegmentation counts them
    """
    height, width = size
    tall, wide = (min(crop, side) if crop else side for side in size)
    tops, lefts = (
        [min(stride * index, side - window) for index in range(ceil(max(side - window, 0) / stride) + 1)]
        for side, window in ((height, tall), (width, wide))
    )
    return [(top, left, top + tall, left + wide) for top in tops for left in lefts]


def slide(
    images: Tensor, crop: int, stride: int, score: Callable[[Tensor], Tensor], together: int = TOGETHER
) -> Tensor:
    """Scores (B, C, H, W) of images (B, 3, H, W): the mean over the windows that hold a pixel.

    score  windows (M, 3, h, w) to (M, C, h, w); gets windows of several images together, at most `together`
    """
    places = window_places((images.shape[-2], images.shape[-1]), crop, stride)
    work = [(image, place) for image in range(len(images)) for place in places]
    total, count = None, images.new_zeros(images.shape[-2:])
    for top, left, bottom, right in places:
        count[top:bottom, left:right] += 1
    for start in range(0, len(work), together):
        part = work[start : start + together]
        windows = torch.stack([images[image, :, top:bottom, left:right] for image, (top, left, bottom, right) in part])
        for (image, (top, left, bottom, right)), scores in zip(part, score(windows)):
            if total is None:
                total = scores.new_zeros(len(images), len(scores), *images.shape[-2:])
            total[image, :, top:bottom, left:right] += scores
    assert total is not None, "no image"
    return total / count
