"""One photo while its settings are moved: each step keeps its last result, so that a setting costs what lies behind it.

The steps are those of run.py, so that the masks are those that scripts/segment.py writes.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from clip.load import Clip
from clip.resnet import is_resnet
from common.errors import UserError
from common.outcome import Outcome
from dataset.spec import Sample
from pipeline.methods.method import LateSteps, Method
from pipeline.methods.table import METHODS
from pipeline.stages import crf
from pipeline.stages.batches import Batch, BatchImage
from pipeline.stages.cams import CamWork, ModelSource, arrays_of, compute_batch, with_options
from pipeline.stages.crf import CrfInput, CrfJob, CrfResult
from pipeline.stages.run import as_stored, crf_input

Value = TypeVar("Value")
Options = Mapping[str, float]  # values of the method's settings in `late_steps(work).names`


def late_steps(work: CamWork) -> LateSteps | None:
    """The method's last steps; None where it has none, or where test-time augmentation averages what they give."""
    return None if work.settings.augmented else METHODS[work.settings.method].late


@dataclass
class OnePhoto:
    """A photo's stages. Not for several threads at once.

    work    the method with its model and words
    sample  the photo, and the classes that it shows
    """

    work: CamWork
    sample: Sample
    _kept: dict[str, tuple[Hashable, Any]] = field(default_factory=dict)

    def maps(self, options: Options) -> tuple[CamWork, BatchImage]:
        """The maps as a CAM file has them, and the work that would make the file. Raises UserError for a bad photo."""
        late, work = late_steps(self.work), with_options(self.work, **options) if options else self.work
        seen = self._step("look", (), lambda: self._look(late))

        def finish() -> BatchImage:
            image = seen
            if late is not None:
                image = replace(image, maps=arrays_of(late.finish([image.maps], work.settings)[0]))
            return as_stored(image, work.kind)

        return work, self._step("maps", _key(options), finish)

    def result(self, job: CrfJob, options: Options) -> CrfResult:
        """Labels and probabilities after the CRF, with the record of the job's mask. Raises UserError."""
        work, image = self.maps(options)
        without = replace(job, confidence=0.0, palette=False, out_dir=None)  # what the CRF does not read

        def sharpen() -> CrfResult:
            given: list[CrfInput] = [crf_input(work, job, image)]
            (result,) = crf.sharpen_all(job, given, load=_same, finish=_same, threads=1)
            return _needed(result)

        result = self._step("crf", (_key(options), without), sharpen)
        record = job.record(result.input.id, result.input.cams, result.input.keys, image.source)
        return replace(result, input=replace(result.input, record=record))

    def write(self, job: CrfJob, options: Options) -> None:
        """Write the mask to the job's folder, as the commands do. Raises UserError."""
        _needed(crf.finish(job, (), self.result(job, options)).outcome)

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return sum(map(_bytes, self._kept.values()))

    def _look(self, late: LateSteps | None) -> BatchImage:
        batch = compute_batch(self.work, self.work.reader(Batch([self.sample])), late)
        for outcome in batch.outcomes:
            _needed(outcome)
        return batch.images[0]

    def _step(self, name: str, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The step's last result where it was made for the same key; else a new one."""
        if name not in self._kept or self._kept[name][0] != key:
            self._kept.pop(name, None)  # its memory is free for the new one
            self._kept[name] = key, compute()
        return self._kept[name][1]


@dataclass(frozen=True)
class KeptModel(ModelSource):
    """A model that is loaded once for all methods and words that it is asked for with.

    loaded  by model, pretrained and the method's own loader; sources of one activation, device and prompts may share it
    """

    loaded: dict[Any, Clip] = field(default_factory=dict, compare=False, repr=False)

    def load(self, worker: int = 0, resnets: bool = False, method: Method | None = None) -> Clip:
        loader = method.load if method is not None else None
        key = self.model, self.pretrained, loader
        clip = self.loaded.get(key)
        if clip is None or (is_resnet(clip.visual) and not resnets):  # the latter says that it will not do
            clip = self.loaded[key] = super().load(worker, resnets, method)
        return clip


class Photos:
    """The photos that were looked at last, as far as a number of bytes goes; the newest is always kept."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._photos: OrderedDict[Hashable, OnePhoto] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], OnePhoto]) -> OnePhoto:
        """The photo of that key, made where it is not there (any more)."""
        photo = self._photos.pop(key, None) or make()
        self._photos[key] = photo
        return photo

    def shrink(self) -> None:
        """Let the photos go that were not looked at for the longest time; to be called when a photo has grown."""
        sizes = {key: photo.size for key, photo in self._photos.items()}
        while len(sizes) > 1 and sum(sizes.values()) > self.most_bytes:
            oldest, _ = self._photos.popitem(last=False)
            del sizes[oldest]

    def __len__(self) -> int:
        return len(self._photos)


def _key(options: Options) -> Hashable:
    return tuple(sorted(options.items()))


def _same(value: Any) -> Any:
    return value


def _needed(result: Any) -> Any:
    """The result of a step. Raises UserError for the outcome of a photo that failed."""
    if isinstance(result, Outcome) and result.status == "failed":
        raise UserError(result.reason)
    return result


def _bytes(value: Any) -> int:
    """Of the arrays and tensors in what a step gave."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.nbytes
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    if is_dataclass(value):
        return sum(map(_bytes, vars(value).values()))
    return 0
