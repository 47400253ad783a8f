"""ProxyCLIP (Lan et al., ECCV 2024): CLIP's values, gathered over patches that DINO finds alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.methods.dino import DINO, identity_of, network_of
from pipeline.methods.windowed import Published, Windows, WindowSettings, completed, method_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip
    from dataset.spec import DatasetSpec


def _published(prob_threshold: float = 0.0, background: str = "words", **more: int) -> Published:
    return Published(**{"window": 336, **more}, prob_threshold=prob_threshold, background=background)


PUBLISHED = {
    "": _published(),
    "voc12": _published(0.2),
    "coco14": _published(0.25, "few"),
    "cocoobject": _published(0.25, "few"),
    "context60": _published(0.15, "word"),
    "voc20": _published(),
    "context59": _published(),
    "cocostuff": _published(),
    "ade20k": _published(short_side=448),
    "cityscapes": _published(short_side=448, window=224),
}


@dataclass(frozen=True)
class ProxyClipSettings(WindowSettings):
    """The method's own settings.

    identity  of the network's weights
    """

    dino: str | None = DINO
    identity: str = ""


def complete(clip: Clip, spec: DatasetSpec, settings: ProxyClipSettings) -> Any:
    """Raises UserError where there is no such network."""
    network_of(settings.dino, clip.device)
    return replace(completed(clip, spec, settings, PUBLISHED), identity=identity_of(settings.dino))


def output(clip: Clip, windows: Windows, options: ProxyClipSettings) -> tuple[Tensor, tuple[int, int]]:
    """On the grid of the other network."""
    from pipeline.steps.other_network import alike, proxy_output

    network = network_of(options.dino, windows.images.device)
    height, width = (-(-side // network.patch) for side in windows.images.shape[-2:])
    attention = alike(network.features(windows.images, (height, width), windows.precision))
    return proxy_output(clip.visual, windows.tokens, attention, (height, width)), (height, width)


METHOD = replace(method_of(output, ProxyClipSettings, PUBLISHED), complete=complete)
