"""What a training run is asked for.

Two runs with equal settings on one machine give the same weights; what cannot change them is not in here.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from common.version import VERSION
from segmentor.augment import Views
from training.schedule import polynomial


@dataclass(frozen=True)
class Teaching:
    """Which labels are hidden from the network, and who finds them instead (MaskCLIP+: Zhou et al., 2022, section 3.3).

    masks          whether there are mask files; without them all of every image is hidden
    hidden         mask values
    teacher        one of pipeline.methods.table.METHODS that is dense; "": nobody teaches
    guided         the first and the last iteration, counted from 1, in which the teacher finds the hidden labels
    own_from       the first iteration in which the network finds them itself; 0: never
    confidence     where the teacher's highest probability is lower, the label stays unknown
    padding        whether the teacher sees the padding of crops
    key_smoothing, smoothing_norm, denoising  the teacher's; see pipeline.methods.maskclip.MaskClipSettings
    """

    masks: bool = True
    hidden: tuple[int, ...] = ()
    teacher: str = ""
    guided: tuple[int, int] = (0, 0)
    own_from: int = 0
    confidence: float = 0.0
    padding: bool = False
    key_smoothing: float = 0.0
    smoothing_norm: str = "position"
    denoising: float = 0.0

    def finder(self, iteration: int) -> str:
        """Who finds the hidden labels in an iteration, counted from 1: "teacher", "network" or "" for nobody."""
        if self.teacher and self.guided[0] <= iteration <= self.guided[1]:
            return "teacher"
        return "network" if 0 < self.own_from <= iteration else ""


@dataclass(frozen=True)
class Words:
    """Which CLIP tells what the classes' names mean, and how it is asked; empty where there is none."""

    model: str = ""
    activation: str = ""
    prompts: str = ""
    templates: str = ""


NESTED = {"views": "view_", "teaching": "teaching_", "words": "clip_"}  # fields, and how what is in them is recorded


@dataclass(frozen=True)
class Settings:
    """
    labels      names by mask value
    images      how many there are to train on
    batch       images of one process that go through the network together
    accumulate  batches before the weights change; batch norms see one of them
    ranks       processes
    ema         decay of the running mean of the weights, which is then validated and written; 0: none
    background  whether label 0 is the background
    text_width  D of the text head
    """

    arch: str
    labels: tuple[str, ...]
    images: int
    max_iters: int
    batch: int
    accumulate: int = 1
    ranks: int = 1
    background: bool = True
    head: str = "linear"
    text_width: int = 0
    pretrained: str = ""
    views: Views = field(default_factory=Views)
    teaching: Teaching = field(default_factory=Teaching)
    words: Words = field(default_factory=Words)
    optimizer: str = "adamw"
    lr: float = 6e-5
    min_lr: float = 0.0
    head_factor: float = 10.0
    weight_decay: float = 0.004
    warmup: int = 0
    power: float = 1.0
    loss: str = "ce"
    loss_over: str = "valid"
    ema: float = 0.0
    precision: str = "float32"
    seed: int = 0
    code: str = VERSION

    def rate(self, iteration: int) -> float:
        """The learning rate of a 0-based iteration."""
        return polynomial(iteration, self.lr, self.max_iters, self.power, self.min_lr, self.warmup)

    def record(self) -> dict[str, Any]:
        """All of it, as JSON would give it back, on one level."""
        record = asdict(self)
        for name, prefix in NESTED.items():
            record |= {prefix + part: value for part, value in record.pop(name).items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}
