"""A small MaskFormer and its sizes."""

import torch

from zsseg.maskformer import MaskFormer
from zsseg.sizes import Sizes

SIZES = Sizes(
    classes=2,
    text_width=16,
    width=8,
    blocks=(1, 1, 1, 1),
    norm="group",
    features=32,
    masks=16,
    hidden=16,
    heads=2,
    feedforward=32,
    layers=2,
    queries=6,
    class_hidden=24,
)


def small_maskformer(seed: int = 0, sizes: Sizes = SIZES, **more: object) -> MaskFormer:
    torch.manual_seed(seed)
    return MaskFormer(sizes, **more).eval()  # type: ignore[arg-type]
