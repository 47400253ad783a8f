"""The sizes of a MaskFormer, and the networks that have names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """What a network is made of; as published for R50 and ViT-B/16 where nothing is given.

    classes      of the training
    text_width   D
    width, blocks, deep_stem  of the backbone: see ResNet
    norm         of the backbone: "frozen" (a pretrained one), or "group" for one that is trained from random weights
    features     channels of the pixel decoder; masks: of its last map
    hidden, heads, feedforward, layers  of the query decoder
    class_hidden of the MLP from query to text embedding
    logit_scale  factor of the cosines between queries and words
    """

    classes: int
    text_width: int = 512
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    deep_stem: bool = False
    norm: str = "frozen"
    features: int = 256
    masks: int = 256
    hidden: int = 256
    heads: int = 8
    feedforward: int = 2048
    layers: int = 6
    queries: int = 100
    class_hidden: int = 1024
    logit_scale: float = 100.0


NETWORKS: Mapping[str, Mapping[str, Any]] = {  # what differs from the published R50; `tiny` is for the toy world
    "R50": {},
    "R101c": {"blocks": (3, 4, 23, 3), "deep_stem": True},
    "tiny": {
        "width": 16,
        "blocks": (1, 1, 2, 1),
        "deep_stem": True,
        "norm": "group",
        "features": 64,
        "masks": 64,
        "hidden": 64,
        "heads": 4,
        "feedforward": 128,
        "layers": 3,
        "queries": 16,
        "class_hidden": 128,
    },
}
