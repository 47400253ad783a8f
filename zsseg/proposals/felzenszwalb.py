"""Regions by graph-based segmentation (Felzenszwalb and Huttenlocher, IJCV 2004), as scikit-image has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from common.arguments import count, not_negative, option
from zsseg.proposals.proposer import Photo, Propose, Proposer

if TYPE_CHECKING:
    from pipeline.steps.regions import LabelMap


@dataclass(frozen=True)
class FelzenszwalbSettings:
    """Its parameters; their help says what they are."""

    scale: float = option(100.0, "larger: larger regions", flag="--fz_scale", type=not_negative, metavar="X")
    sigma: float = option(
        0.8, "deviation of the blur before, in pixels", flag="--fz_sigma", type=not_negative, metavar="X"
    )
    min_size: int = option(
        200, "pixels; smaller regions join a neighbour", flag="--fz_min_size", type=count, metavar="N"
    )


def propose(settings: FelzenszwalbSettings, photo: Photo) -> LabelMap:
    """A label map of the photo's size."""
    from skimage.segmentation import felzenszwalb

    from pipeline.steps.regions import LabelMap

    return LabelMap.of(felzenszwalb(photo.rgb, settings.scale, settings.sigma, settings.min_size))


def load(settings: FelzenszwalbSettings, device: Any) -> Propose:
    return partial(propose, settings)


PROPOSER = Proposer(FelzenszwalbSettings, load, partition=True)
