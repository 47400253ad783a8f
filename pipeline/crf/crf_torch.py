"""DenseCRF of many images at once, by tensor operations on any device.

Images of a batch lie one after the other, each filled up to a multiple of four pixels (see pipeline.crf.lattice);
labels that an image lacks have probability 0. The results do not depend on which images are batched together.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clip.device import pick_device
from pipeline.crf.lattice import PIXELS_AT_ONCE, Digits, code_digits
from pipeline.crf.lattice_torch import build, images_at_once
from pipeline.crf.meanfield_torch import Filter, gaussian_filter, infer
from pipeline.crf.settings import LEAST_PROBABILITY, CrfSettings, check_fineness

VALUES_AT_ONCE = 1 << 22  # pixels times labels computed together; about 1 GB
VALUES_ON_CPU = 1 << 19  # there more at once is no faster, and leaves the caches
LEAST_LABELS = 4  # a pixel of fewer labels takes as much memory
CACHED_PIXELS = 1 << 21  # the filters of larger batches are not kept

Size = tuple[int, int]  # (H, W)


class Batch(NamedTuple):
    """Where the P pixels of a batch lie.

    sizes      (H, W) of each image; starts  its first pixel
    owners     (P,) int64, the number of the image
    filling    (P,) bool, whether beyond the last pixel of the image
    positions  x, y (2, P) float32 in the image, 0 where filling
    """

    sizes: tuple[Size, ...]
    starts: list[int]
    owners: Tensor
    filling: Tensor
    positions: Tensor


@torch.no_grad()
def infer_arrays(
    images: Sequence[np.ndarray],
    probs: Sequence[np.ndarray],
    settings: CrfSettings,
    device: str | torch.device,
    values_at_once: int | None = None,
) -> list[np.ndarray]:
    """dense_crf_batch of pipeline.crf.dense_crf, which checks the input.

    values_at_once  bounds memory: pixels times labels of the images computed together; None chooses by device
    """
    device = pick_device(str(device))
    if values_at_once is None:
        values_at_once = VALUES_ON_CPU if device.type == "cpu" else VALUES_AT_ONCE
    results: dict[int, np.ndarray] = {}
    for group in chunks([array.shape for array in probs], settings, values_at_once):
        group_images, group_probs = (
            # torch wants contiguous arrays, and warns of those that cannot be written
            [torch.from_numpy(np.require(arrays[i], requirements=["C", "W"])).to(device) for i in group]
            for arrays in (images, probs)
        )
        group_results = _infer(group_images, group_probs, settings)
        results.update(zip(group, (q.cpu().numpy() for q in group_results)))
    return [results[i] for i in range(len(probs))]


def chunks(shapes: Sequence[tuple[int, ...]], settings: CrfSettings, values_at_once: int) -> Iterator[list[int]]:
    """Which images to compute together, as indices into shapes (K, H, W); those of few labels come first."""
    group: list[int] = []
    pixels, side = 0, 1
    for i in sorted(range(len(shapes)), key=lambda i: shapes[i][0]):
        labels, height, width = shapes[i]
        pixels, side = pixels + height * width, max(side, height, width)
        most_images = min(images_at_once(digits) for digits in _both_digits(side, settings))
        if group and (pixels * max(labels, LEAST_LABELS) > values_at_once or len(group) >= most_images):
            yield group
            group, pixels, side = [], height * width, max(height, width)
        group.append(i)
    if group:
        yield group


def _infer(images: Sequence[Tensor], probs: Sequence[Tensor], settings: CrfSettings) -> list[Tensor]:
    batch = _batch(tuple((image.shape[0], image.shape[1]) for image in images), images[0].device)
    filters = _spatial_filter(batch, settings), _bilateral_filter(batch, images, settings)
    compats = (settings.gaussian_compat, settings.bilateral_compat)
    q = infer(_log_probs(batch, probs), filters, compats, settings.iterations)
    return [
        q[: len(one), start : start + one[0].numel()].reshape(one.shape).contiguous()
        for start, one in zip(batch.starts, probs)
    ]


def _batch(sizes: tuple[Size, ...], device: torch.device) -> Batch:
    areas = [height * width for height, width in sizes]
    filled = [area + -area % PIXELS_AT_ONCE for area in areas]
    starts = list(accumulate(filled, initial=0))
    owners = torch.arange(len(sizes), device=device).repeat_interleave(
        torch.tensor(filled, device=device), output_size=starts[-1]
    )
    first, width, area = torch.tensor([starts[:-1], [w for _, w in sizes], areas], device=device)[:, owners]
    place = torch.arange(starts[-1], device=device) - first
    filling = place >= area
    place.masked_fill_(filling, 0)
    y = torch.div(place, width, rounding_mode="floor")
    return Batch(sizes, starts[:-1], owners, filling, torch.stack([place - y * width, y]).float())


def _log_probs(batch: Batch, probs: Sequence[Tensor]) -> Tensor:
    """(K, P) float32 for the largest K; -inf for labels that an image lacks."""
    logs = batch.positions.new_full((max(map(len, probs)), len(batch.owners)), -torch.inf)
    logs[0] = 0  # else pixels that only fill up would have no label
    for start, one in zip(batch.starts, probs):
        logs[: len(one), start : start + one[0].numel()] = one.clamp(LEAST_PROBABILITY, 1).log().flatten(1)
    return logs


def _spatial_filter(batch: Batch, settings: CrfSettings) -> Filter:
    """The Gaussian kernel depends on nothing but the sizes of the images."""
    cached = _cached_spatial_filter if len(batch.owners) <= CACHED_PIXELS else _cached_spatial_filter.__wrapped__
    return cached(batch.sizes, batch.owners.device, settings)


@lru_cache(maxsize=2)
def _cached_spatial_filter(sizes: tuple[Size, ...], device: torch.device, settings: CrfSettings) -> Filter:
    batch = _batch(sizes, device)
    features = _divided(batch.positions, settings.gaussian_sxy)
    digits = _both_digits(max(map(max, sizes)), settings)[0]
    return gaussian_filter(build(features, batch.owners, batch.filling, digits))


def _bilateral_filter(batch: Batch, images: Sequence[Tensor], settings: CrfSettings) -> Filter:
    colours = batch.positions.new_zeros((3, len(batch.owners)))
    for start, image in zip(batch.starts, images):
        colours[:, start : start + image[..., 0].numel()] = image.reshape(-1, 3).T
    features = torch.cat(
        [_divided(batch.positions, settings.bilateral_sxy), _divided(colours, settings.bilateral_srgb)]
    )
    digits = _both_digits(max(map(max, batch.sizes)), settings)[1]
    return gaussian_filter(build(features, batch.owners, batch.filling, digits))


def _divided(features: Tensor, deviation: float) -> Tensor:
    """Divided by a tensor, as PyTorch multiplies by the reciprocal of a number on a GPU, which rounds otherwise."""
    return features / torch.full((1,), deviation, device=features.device)


@lru_cache(maxsize=256)
def _both_digits(side: int, settings: CrfSettings) -> tuple[Digits, Digits]:
    """Digits for all images of up to side x side pixels and any colours: for the Gaussian and the bilateral kernel."""
    check_fineness(side, side, settings)
    spatial_ends = [(side - 1) / settings.gaussian_sxy] * 2
    bilateral_ends = [(side - 1) / settings.bilateral_sxy] * 2 + [255 / settings.bilateral_srgb] * 3
    spatial, bilateral = (
        code_digits(np.array([[0] * len(ends), ends], np.float32).T) for ends in (spatial_ends, bilateral_ends)
    )
    return spatial, bilateral
