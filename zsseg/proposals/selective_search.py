"""Regions by selective search (zsseg/selective_search.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from common.arguments import option
from zsseg.proposals.proposer import Photo, Propose, Proposer

if TYPE_CHECKING:
    from pipeline.steps.regions import LabelMap


@dataclass(frozen=True)
class SelectiveSearchSettings:
    """Its one parameter."""

    likeness: float = option(0.65, "regions merge while two neighbours are at least so alike", metavar="X")


def propose(settings: SelectiveSearchSettings, photo: Photo) -> LabelMap:
    """A label map of the photo's size."""
    from pipeline.steps.regions import LabelMap
    from zsseg.selective_search import search

    return LabelMap.of(search(photo.rgb, settings.likeness)[1])


def load(settings: SelectiveSearchSettings, device: Any) -> Propose:
    return partial(propose, settings)


PROPOSER = Proposer(SelectiveSearchSettings, load, partition=True)
