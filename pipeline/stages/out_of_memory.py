"""A batch on a device whose memory may not hold it: computed in parts, at last on the CPU."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from clip.load import Clip
from common.errors import StopRun, UserError
from common.memory import out_of_memory
from pipeline.methods.method import CamSettings, MapPair, TextSet

Work = tuple[Clip, TextSet, CamSettings]  # what computes maps
Compute = Callable[[Work, slice], list[MapPair]]  # the maps of a part of a batch
REPEATED = "alone: its batch failed"
ON_CPU = "on the CPU: out of GPU memory"


class DeviceLost(StopRun):
    """The GPU answers every further call with an error, until another process uses it."""


@dataclass(frozen=True)
class Made:
    """The maps of one image, and what people should know of how they were made."""

    maps: MapPair
    note: str = ""


@dataclass
class Room:
    """What a run learned about its device's memory.

    fits   by size (H, W) of the prepared images, how many fit together, where a whole batch did not
    spare  what computes maps on the CPU, made when it is first needed
    """

    fits: dict[tuple[int, ...], int] = field(default_factory=dict)
    spare: Work | None = None

    def compute(self, compute: Compute, work: Work, shape: tuple[int, ...], count: int) -> list[Made | Exception]:
        """The maps of `count` images, in as large parts as the memory holds; one result, or what went wrong, an image.

        shape  (H, W) of the prepared images

        A part that finds no memory is halved, down to one image; this size is kept for later batches of the same
        patch grid. A single image that does not fit goes to a copy of the model on the CPU, in float32. A part that
        fails in another way is repeated image by image. Raises StopRun when the device is lost.
        """
        size = min(count, self.fits.get(shape, count))
        halved = f"batch halved: out of {'memory' if _on_cpu(work) else 'GPU memory'}"
        note = halved if size < count else ""
        results: list[Made | Exception] = []
        while len(results) < count:
            part = slice(len(results), min(len(results) + size, count))
            found = _tried(compute, work, part)
            if not isinstance(found, Exception):
                results += [Made(maps, note) for maps in found]
            elif size == 1:
                results.append(self._after(found, compute, work, part))
            elif out_of_memory(found):
                size = self.fits[shape] = (size + 1) // 2
                note = halved
            else:
                size, note = 1, REPEATED
        return results

    def _after(self, error: Exception, compute: Compute, work: Work, image: slice) -> Made | Exception:
        """What can be done about one image's error: where memory ran out on a device, the CPU may have more."""
        found: list[MapPair] | Exception = error
        if out_of_memory(error) and not _on_cpu(work):
            self.spare = self.spare or copied_to_cpu(*work)
            found = _tried(compute, self.spare, image)
        if not isinstance(found, Exception):
            return Made(found[0], ON_CPU)
        hint = "not enough memory for its maps; pass a smaller --max_side or --batch_size 1"
        return UserError(hint) if out_of_memory(found) else found


def _on_cpu(work: Work) -> bool:
    return work[0].device.type == "cpu"


def _tried(compute: Compute, work: Work, part: slice) -> list[MapPair] | Exception:
    """The maps, or the error without the frames that would hold tensors in memory."""
    try:
        return compute(work, part)
    except StopRun:
        raise
    except Exception as error:
        failed = error
    _check_device(failed)
    failed.__traceback__ = failed.__context__ = failed.__cause__ = None
    _give_back(work[0].device.type)
    return failed


def _check_device(error: Exception) -> None:
    if isinstance(error, RuntimeError) and "CUDA error" in str(error) and not out_of_memory(error):
        said = " ".join(str(error).split())[:160]
        raise DeviceLost(f"the GPU failed ({said}); the same command goes on from here") from error


def _give_back(device: str) -> None:
    """Let the device have the memory that torch keeps for later."""
    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def copied_to_cpu(clip: Clip, text: TextSet, settings: CamSettings) -> Work:
    """Copies on the CPU, where what only pays on a GPU is left out. Takes no memory on the device."""
    known: dict[int, Any] = {
        id(weight): torch.nn.Parameter(weight.detach().cpu(), requires_grad=False) for weight in clip.model.parameters()
    }
    known |= {id(buffer): buffer.cpu() for buffer in clip.model.buffers()}
    model = copy.deepcopy(clip.model, known)
    texts = TextSet(text.foreground.cpu(), text.background.cpu())
    return replace(clip, model=model), texts, replace(settings, precision="float32", compile=False)
