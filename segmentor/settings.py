"""What a training run is asked for. Imports the standard library, augment and common.

Two runs with equal settings on one machine give the same weights; what cannot change them is not in here.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from common.version import VERSION
from segmentor.augment import Views


@dataclass(frozen=True)
class Settings:
    """
    labels      names by mask value
    images      how many there are to train on
    batch       images of one process that go through the network together
    accumulate  batches before the weights change; batch norms see one of them
    ranks       processes
    ema         decay of the running mean of the weights, which is then validated and written; 0: none
    """

    arch: str
    labels: tuple[str, ...]
    images: int
    max_iters: int
    batch: int
    accumulate: int = 1
    ranks: int = 1
    head: str = "linear"
    label_source: str = "masks"
    pretrained: str = ""
    views: Views = field(default_factory=Views)
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

    def record(self) -> dict[str, Any]:
        """All of it, as JSON would give it back, on one level."""
        views = asdict(self.views)
        record = {**asdict(self), **{f"view_{name}": value for name, value in views.items()}}
        del record["views"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The settings in which two records differ, for people; empty when they are the same."""
    return ", ".join(
        f"{name} {found.get(name)} (now {wanted[name]})" for name in wanted if found.get(name) != wanted[name]
    )
