"""What a way to propose regions is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.steps.regions import Regions


@dataclass(frozen=True)
class Photo:
    """A photo as regions are looked for in it.

    rgb   (h, w, 3) uint8, at the size at which it is worked on
    size  (H, W) of the photo in its file
    """

    id: str
    rgb: np.ndarray
    size: tuple[int, int]


Propose = Callable[..., "Regions"]  # of a Photo


@dataclass(frozen=True)
class Proposer:
    """A way to propose regions.

    settings   the dataclass of its own settings, whose fields are its options (common/arguments.py)
    load       its settings and a device to a function that proposes; raises UserError for weights that do not load.
               Without `network` that function can be pickled, and the device is not looked at
    complete   its settings with what names the files that it depends on, for records
    network    whether it computes on the device
    partition  whether its regions are label maps, or else masks that may overlap
    source     the file that the regions of a photo are in, where they are read
    remark     what people should know of its regions
    with_classes  of one that gives class probabilities: its settings and a data set's spec to its settings for these
               classes; called before `complete`
    learned    of one that gives class probabilities: its settings to the names of the classes that its network was
               trained on; None where nothing says it
    views      whether its function also takes `views` of a photo to look at: pairs of a scale and whether mirrored
    with_clip  of one that can take the CLIP that classifies regions, in place of loading one: as `load`
    """

    settings: type
    load: Callable[[Any, torch.device | None], Propose]
    complete: Callable[[Any], Any] = lambda settings: settings
    network: bool = False
    partition: bool = False
    source: Callable[[Any, str], Path] | None = None
    remark: str = ""
    with_classes: Callable[[Any, DatasetSpec], Any] = lambda settings, spec: settings
    learned: Callable[[Any], tuple[str, ...] | None] = lambda settings: None
    with_clip: Callable[[Any, Clip], Propose] | None = None
    views: bool = False

    def ready(self, settings: Any, clip: Clip) -> Propose:
        """The function that proposes, on the device of the CLIP that classifies regions."""
        return self.with_clip(settings, clip) if self.with_clip else self.load(settings, clip.device)
