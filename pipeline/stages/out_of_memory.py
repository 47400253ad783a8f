"""The maps of a batch on a device whose memory may not hold it: computed in parts, at last on the CPU."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from clip.load import Clip
from common.errors import StopRun, UserError, in_short
from common.memory import out_of_memory
from pipeline.methods.method import CamSettings, TextSet

Model = tuple[Clip, TextSet, CamSettings]  # what computes maps
Maps = tuple[Any, ...]  # of one image: before and after the affinity
Compute = Callable[[Model, slice], list[Maps]]  # the maps of a part of a batch
REPEATED = "alone: its batch failed"
ON_CPU = "on the CPU: out of GPU memory"


class DeviceLost(StopRun):
    """The GPU answers every further call with an error, until another process uses it."""


@dataclass(frozen=True)
class Computed:
    """The maps of one image, and what people should know of how they were made."""

    maps: Maps
    note: str = ""


@dataclass
class DeviceMemory:
    """What a run learned about its device's memory.

    fits       by size (H, W) of the prepared images, how many fit together, where a whole batch did not
    cpu_model  what computes maps on the CPU, made when it is first needed
    """

    fits: dict[tuple[int, ...], int] = field(default_factory=dict)
    cpu_model: Model | None = None

    def compute(self, compute: Compute, model: Model, shape: tuple[int, ...], count: int) -> list[Computed | Exception]:
        """The maps of `count` images, in as large parts as the memory holds: for each image its maps or its error.

        shape  (H, W) of the prepared images

        A part that finds no memory is halved, down to one image; this size is kept for later batches of the same
        patch grid. A single image that does not fit goes to a copy of the model on the CPU, in float32. A part that
        fails in another way is repeated image by image. Raises DeviceLost.
        """
        on_cpu = model[0].device.type == "cpu"
        halved = f"batch halved: out of {'memory' if on_cpu else 'GPU memory'}"
        size = min(count, self.fits.get(shape, count))
        note = halved if size < count else ""
        results: list[Computed | Exception] = []
        while len(results) < count:
            part = slice(len(results), min(len(results) + size, count))
            result = _maps_or_error(compute, model, part)
            if isinstance(result, Exception) and size > 1:
                if out_of_memory(result):
                    size = self.fits[shape] = (size + 1) // 2
                    note = halved
                else:
                    size, note = 1, REPEATED
                continue
            part_note = note
            if isinstance(result, Exception) and out_of_memory(result) and not on_cpu:
                self.cpu_model = self.cpu_model or copied_to_cpu(*model)
                result, part_note = _maps_or_error(compute, self.cpu_model, part), ON_CPU
            if not isinstance(result, Exception):
                results += [Computed(maps, part_note) for maps in result]
            elif out_of_memory(result):
                results.append(UserError("not enough memory for its maps; pass a smaller --max_side or --batch_size 1"))
            else:
                results.append(result)
        return results


def _maps_or_error(compute: Compute, model: Model, part: slice) -> list[Maps] | Exception:
    """The maps, or the error without the frames that would hold tensors in memory."""
    try:
        return compute(model, part)
    except StopRun:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "CUDA error" in str(error) and not out_of_memory(error):
            raise DeviceLost(f"the GPU failed ({in_short(error)}); the same command goes on from here") from error
        failed = error
    failed.__traceback__ = failed.__context__ = failed.__cause__ = None
    device = model[0].device.type
    if device in ("cuda", "mps"):  # torch keeps freed memory for itself
        getattr(torch, device).empty_cache()
    return failed


def copied_to_cpu(clip: Clip, text: TextSet, settings: CamSettings) -> Model:
    """A copy of the model on the CPU, in float32 and not compiled. Takes no memory on the device."""
    copies: dict[int, Any] = {
        id(weight): torch.nn.Parameter(weight.detach().cpu(), requires_grad=False) for weight in clip.model.parameters()
    }
    copies |= {id(buffer): buffer.cpu() for buffer in clip.model.buffers()}
    model = copy.deepcopy(clip.model, copies)
    texts = replace(text, foreground=text.foreground.cpu(), background=text.background.cpu())
    return replace(clip, model=model), texts, replace(settings, precision="float32", compile=False)
