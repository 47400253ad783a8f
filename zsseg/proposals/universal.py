"""Masks by a ready-made network of transformers: Mask2Former, MaskFormer or EoMT, whatever its classes are.

Only its masks are taken. Its classes are not: such networks were trained with masks of all classes of their data set,
also of those that a zero-shot split calls unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from common.arguments import option
from zsseg.proposals.proposer import Photo, Propose, Proposer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.steps.regions import RunLengths

KINDS = ("mask2former", "maskformer", "eomt", "eomt_dinov3")
SQUARES = ("eomt", "eomt_dinov3")  # their positions are learned for one square size
DIVISOR = 32  # of the sides of the others' input
SHORT, LONGEST = 800, 1333  # sides where the folder does not say
NORMALISATION = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}  # where it does not say


@dataclass(frozen=True)
class UniversalSettings:
    """Which network, and which of its masks are kept."""

    weights: str | None = option(
        None,
        "Mask2Former, MaskFormer or EoMT: a folder in transformers' form or a name such as "
        "facebook/mask2former-swin-large-coco-panoptic",
        flag="--network",
        type=str,
        metavar="DIR|NAME",
    )
    objectness: float = option(
        0.5, "masks are kept whose probability of being any object is at least this", flag="--objectness", metavar="X"
    )
    identity: str = ""  # of the weights


@dataclass(frozen=True)
class Network:
    """A network and how it wants its photos; `square` is the side of its input where that is fixed."""

    model: Any
    device: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    short: int
    longest: int
    square: int | None


def load(settings: UniversalSettings, device: torch.device | None) -> Propose:
    return partial(propose, _network(settings.weights, str(device or "cpu")), settings)


@lru_cache(maxsize=1)
def _network(weights: str | None, device: str) -> Network:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    from zsseg.proposals.hub import load_pretrained

    def made(name: str, local_files_only: bool) -> Network:
        options = {"local_files_only": local_files_only}
        model = AutoModelForUniversalSegmentation.from_pretrained(name, use_safetensors=True, **options)
        processor = AutoImageProcessor.from_pretrained(name, **options)
        mean, deviation = (tuple(getattr(processor, key, None) or usual) for key, usual in NORMALISATION.items())
        size = dict(processor.size or {})
        square = int(model.config.image_size) if model.config.model_type in SQUARES else None
        return Network(
            model.to(device).eval(),
            device,
            mean,
            deviation,
            int(size.get("shortest_edge") or size.get("height") or SHORT),
            int(size.get("longest_edge") or size.get("width") or LONGEST),
            square,
        )

    return load_pretrained(weights, made, "--network", KINDS)


def input_size(network: Network, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) that a photo of (H, W) is scaled to before it is padded."""
    short, longest = (network.square, network.square) if network.square else (network.short, network.longest)
    factor = min(short / min(size), longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def propose(network: Network, settings: UniversalSettings, photo: Photo) -> RunLengths:
    """Masks of the photo's size."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.nn.functional import pad

    from pipeline.steps.regions import RunLengths

    size = photo.rgb.shape[0], photo.rgb.shape[1]
    height, width = input_size(network, size)
    resized = np.array(Image.fromarray(photo.rgb).resize((width, height), Image.Resampling.BILINEAR))
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.deviation))
    pixels = (torch.from_numpy(resized).permute(2, 0, 1).float() / 255 - mean) / deviation
    target = network.square
    below, right = (target - side if target else -side % DIVISOR for side in (height, width))
    black = -mean / deviation if target else torch.zeros(3, 1, 1)  # EoMT is padded before it is normalised
    pixels = pad(pixels - black, (0, right, 0, below)) + black
    with torch.no_grad():
        found = network.model(pixel_values=pixels[None].to(network.device))
        nothing = found.class_queries_logits[0].float().softmax(dim=-1)[:, -1]
        logits = found.masks_queries_logits[0][1 - nothing >= settings.objectness].float()
    masks = masks_at(logits, (height + below, width + right), (height, width), size)
    return RunLengths.of((mask for mask in masks if mask.any()), size)


def masks_at(
    logits: torch.Tensor, padded: tuple[int, int], inside: tuple[int, int], size: tuple[int, int]
) -> list[np.ndarray]:
    """(Q, h, w) logits of the padded input to Q masks (H, W) bool of the photo, where the logits are above 0."""
    from torch.nn.functional import interpolate

    masks = []
    for plane in logits:
        whole = interpolate(plane[None, None], padded, mode="bilinear", align_corners=False)[
            ..., : inside[0], : inside[1]
        ]
        masks.append((interpolate(whole, size, mode="bilinear", align_corners=False)[0, 0] > 0).cpu().numpy())
    return masks


def complete(settings: UniversalSettings) -> UniversalSettings:
    from zsseg.proposals.hub import identity_of

    return replace(settings, identity=identity_of(settings.weights))


PROPOSER = Proposer(
    UniversalSettings,
    load,
    complete,
    network=True,
    remark="class-agnostic masks of a network that was trained with all classes of its data set, the unseen ones too",
)
