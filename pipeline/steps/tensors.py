"""The operations on tensors that several steps share."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor


def computing_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Within it, matrix products are "float32" as they are, or "bfloat16" or "float16" by autocast."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def min_max(maps: Tensor) -> Tensor:
    """(..., h, w) to [0, 1], each map by its own: (x - min) / (1e-7 + max(x - min))."""
    shifted = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return shifted / (1e-7 + shifted.amax(dim=(-2, -1), keepdim=True))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Tensor on any device to a float32 array; one of whole numbers below 256 to uint8."""
    if not tensor.is_floating_point():
        return tensor.detach().to("cpu", torch.uint8).numpy()
    return tensor.detach().to("cpu", torch.float32).numpy()
