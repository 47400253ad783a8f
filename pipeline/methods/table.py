"""The CAM methods by name. A new one is a file in this folder, a line here, and a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.methods import (
    clearclip,
    clip_es,
    excel,
    freecp,
    gem,
    maskclip,
    maskclip_v,
    naclip,
    proxyclip,
    resclip,
    sam3,
    sc_clip,
    sclip,
    segclip,
    sfp,
    zsseg,
)
from pipeline.methods.method import CamSettings, Method, TextSet

if TYPE_CHECKING:
    from torch import Tensor

    from clip.load import Clip
    from pipeline.methods.method import MapPair

METHODS: dict[str, Method] = {
    "clip-es": clip_es.METHOD,
    "maskclip": maskclip.METHOD,
    "maskclip-v": maskclip_v.METHOD,
    "segclip": segclip.METHOD,
    "sclip": sclip.METHOD,
    "clearclip": clearclip.METHOD,
    "naclip": naclip.METHOD,
    "resclip": resclip.METHOD,
    "sc-clip": sc_clip.METHOD,
    "sfp": sfp.METHOD,
    "gem": gem.METHOD,
    "proxyclip": proxyclip.METHOD,
    "freecp": freecp.METHOD,
    "excel": excel.METHOD,
    "sam3": sam3.METHOD,
    "zsseg": zsseg.METHOD,
}


def compute_maps(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """The chosen method on a batch (B, 3, h*p, w*p), with test-time augmentation where the settings ask for it.

    labels  the classes of each image, indices into `text.foreground`
    Returns B pairs (cam, attn) of (k_i, h, w) maps, before and after the affinity.
    """
    method = METHODS[settings.method]
    if not settings.augmented:
        return method.maps(clip, images, labels, text, settings)
    import torch

    from pipeline.steps.tensors import min_max
    from pipeline.steps.tta import averaged, transforms

    exact = method.preparation(clip, settings.options).fit == "exact"  # no whole patches, maps as fine as the image
    return averaged(
        lambda variant: method.maps(clip, variant, labels, text, settings),
        images,
        transforms(settings.scales, settings.flip),
        1 if exact else clip.patch_size,
        min_max if method.kind(settings.options) == "cam" else torch.clone,
    )
