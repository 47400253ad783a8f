"""Step 3: DenseCRF (docs/methods.md 1.6): the labels of Kraehenbuehl's library, without a compiler."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from pipeline.crf.settings import DEFAULTS, LEAST_PROBABILITY, MAX_LABELS, CrfSettings, check_fineness

if TYPE_CHECKING:
    import torch

    from pipeline.crf.lattice import Lattice

BACKENDS = ("numba", "torch", "pydensecrf")
REFERENCE_MEAN_BGR = (104.008, 116.669, 122.675)  # docs/methods.md 1.6
CACHED_PIXELS = 1 << 19  # the filters of larger images are not kept: they are large, and sizes seldom repeat


def dense_crf(
    image: np.ndarray,
    probs: np.ndarray,
    settings: CrfSettings = DEFAULTS,
    backend: str = "numba",
    device: "str | torch.device | None" = None,
) -> np.ndarray:
    """Sharpen label probabilities along the edges of an image (Kraehenbuehl & Koltun, 2011).

    image    (H, W, 3) uint8, colour order of your choice; see reference_image
    probs    (K, H, W) float32 in [0, 1], 1 <= K <= 256, not necessarily summing to 1
    backend  one of BACKENDS; their results differ by less than 1e-3
    device   where the backend torch computes, "auto" is a GPU if there is one; None is the CPU
    Returns Q (K, H, W) float32, summing to 1 over K. Raises ValueError for other input, UserError where pydensecrf is
    not installed, or for a device that is not there. Uses one thread, but for torch, which uses its own.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "torch":
        return dense_crf_batch([image], [probs], settings, device or "cpu")[0]
    _check(image, probs)
    check_fineness(image.shape[0], image.shape[1], settings)
    clipped = np.clip(probs, LEAST_PROBABILITY, 1).reshape(len(probs), -1)  # (K, H*W)
    log_probs = np.log(clipped, out=clipped)
    infer = _numba if backend == "numba" else _pydensecrf
    return infer(image, log_probs, settings).reshape(probs.shape)


def dense_crf_batch(
    images: Sequence[np.ndarray],
    probs: Sequence[np.ndarray],
    settings: CrfSettings = DEFAULTS,
    device: "str | torch.device" = "cpu",
) -> list[np.ndarray]:
    """dense_crf of several images by the backend torch, with bounded memory.

    images  (H, W, 3) uint8 each, of any sizes
    probs   (K, H, W) float32 each, K as it comes
    device  "auto" is a GPU if there is one
    Returns Q (K, H, W) float32 for each, the same whichever images are computed together. Raises as dense_crf does.
    """
    from pipeline.crf.crf_torch import infer_arrays

    if len(images) != len(probs):
        raise ValueError(f"as many images as probs are needed, got {len(images)} and {len(probs)}")
    for image, image_probs in zip(images, probs):
        _check(image, image_probs)
    return infer_arrays(images, probs, settings, device)


def reference_image(rgb: np.ndarray) -> np.ndarray:
    """The image that the reference gives to the CRF: mean-subtracted, and wrapped around rather than clipped.

    rgb  (H, W, 3) uint8
    Returns (H, W, 3) uint8, BGR: the difference truncated toward zero, modulo 256. The reference casts negative floats
    to uint8, which wraps on x86 but is undefined in C.
    """
    difference = rgb[..., ::-1].astype(np.float32) - np.array(REFERENCE_MEAN_BGR, np.float32)
    return (difference.astype(np.int32) & 0xFF).astype(np.uint8)


def _check(image: np.ndarray, probs: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if probs.ndim != 3 or probs.shape[1:] != image.shape[:2] or probs.dtype != np.float32:
        expected = f"(K, {image.shape[0]}, {image.shape[1]})"
        raise ValueError(f"probs must be {expected} float32 for this image, got {probs.shape} {probs.dtype}")
    if not 1 <= len(probs) <= MAX_LABELS or probs.size == 0:
        raise ValueError(f"probs must have 1 to {MAX_LABELS} labels and at least one pixel, got {probs.shape}")
    if not np.isfinite(probs).all():
        raise ValueError("probs must be finite")


def _numba(image: np.ndarray, log_probs: np.ndarray, settings: CrfSettings) -> np.ndarray:
    from pipeline.crf.lattice import build
    from pipeline.crf.meanfield import gaussian_filter, infer

    spatial_filter = _spatial_filter if image[..., 0].size <= CACHED_PIXELS else _spatial_filter.__wrapped__
    filters = (
        spatial_filter(image.shape[0], image.shape[1], settings.gaussian_sxy),
        gaussian_filter(build(_bilateral_features(image, settings.bilateral_sxy, settings.bilateral_srgb))),
    )
    compats = (settings.gaussian_compat, settings.bilateral_compat)
    return infer(log_probs, filters, compats, settings.iterations)


@lru_cache(maxsize=8)  # at most 180 MB
def _spatial_filter(height: int, width: int, sxy: float) -> "Lattice":
    """The Gaussian kernel depends on nothing but the size of the image."""
    from pipeline.crf.lattice import build
    from pipeline.crf.meanfield import gaussian_filter

    return gaussian_filter(build(_positions(height, width, sxy)))


def _positions(height: int, width: int, sxy: float) -> np.ndarray:
    """Features x, y (2, H*W) float32."""
    features = np.empty((2, height, width), np.float32)
    features[0] = np.arange(width, dtype=np.float32) / np.float32(sxy)
    features[1] = (np.arange(height, dtype=np.float32) / np.float32(sxy))[:, None]
    return features.reshape(2, -1)


def _bilateral_features(image: np.ndarray, sxy: float, srgb: float) -> np.ndarray:
    """Features x, y and three colours (5, H*W) float32."""
    colours = image.reshape(-1, 3).T.astype(np.float32) / np.float32(srgb)
    return np.concatenate([_positions(image.shape[0], image.shape[1], sxy), colours])


def _pydensecrf(image: np.ndarray, log_probs: np.ndarray, settings: CrfSettings) -> np.ndarray:
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise UserError(
            "the CRF backend 'pydensecrf' needs `pip install pydensecrf2` and a C++ compiler;"
            " the default backend 'numba' needs nothing"
        ) from error
    crf = DenseCRF2D(image.shape[1], image.shape[0], len(log_probs))
    crf.setUnaryEnergy(np.ascontiguousarray(-log_probs))
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=np.array(image, np.uint8, order="C"),
        compat=settings.bilateral_compat,
    )
    return np.array(crf.inference(settings.iterations), np.float32)
