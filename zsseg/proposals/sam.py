"""Masks by segment-anything and its successors, by transformers' mask generation.

SAM (Kirillov et al., ICCV 2023), SAM-HQ (Ke et al., NeurIPS 2023), SAM 2 (Ravi et al., 2024), EdgeTAM (Zhou et al.,
2025), and the tracker of SAM 3 (Carion et al., 2025).

A grid of points asks for masks; those that the network is sure of, and that hold when the threshold moves, are kept,
and of nearly equal ones the best.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from common.arguments import count, option, positive
from zsseg.proposals.proposer import Photo, Propose, Proposer

if TYPE_CHECKING:
    import torch

    from pipeline.steps.regions import RunLengths

KINDS = ("sam", "sam_hq", "sam2", "sam2_video", "edgetam", "edgetam_video", "sam3_tracker", "sam3_video")


@dataclass(frozen=True)
class SamSettings:
    """Which network, and which of its masks are kept; the numbers are the published ones."""

    weights: str | None = option(
        None,
        "SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3: a folder in transformers' form or a name such as facebook/sam-vit-base",
        flag="--sam",
        type=str,
        metavar="DIR|NAME",
    )
    points: int = option(32, "points a side of the grid", flag="--sam_points", type=positive, metavar="N")
    points_at_once: int = option(
        64, "points that go through the network together", flag="--sam_batch", type=positive, metavar="N"
    )
    quality: float = option(0.88, "least quality of a mask, by the network itself", flag="--sam_quality", metavar="X")
    stability: float = option(
        0.95, "least overlap of a mask with itself at other thresholds", flag="--sam_stability", metavar="X"
    )
    overlap: float = option(0.7, "of two masks whose boxes overlap more, one goes", flag="--sam_overlap", metavar="X")
    identity: str = ""  # of the weights
    crops: int = option(0, "layers of crops that are looked at too", flag="--sam_crops", type=count, metavar="N")


def load(settings: SamSettings, device: torch.device | None) -> Propose:
    return partial(propose, _generator(settings.weights, str(device or "cpu")), settings)


@lru_cache(maxsize=1)
def _generator(weights: str | None, device: str) -> Any:
    from zsseg.proposals.hub import load_pretrained

    def made(name: str, local_files_only: bool) -> Any:
        from transformers import AutoImageProcessor, AutoModelForMaskGeneration, pipeline

        network = AutoModelForMaskGeneration.from_pretrained(
            name, local_files_only=local_files_only, use_safetensors=True
        )
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=local_files_only)
        return pipeline("mask-generation", model=network, image_processor=processor, device=device)

    return load_pretrained(weights, made, "--sam", KINDS)


def propose(generator: Any, settings: SamSettings, photo: Photo) -> RunLengths:
    """Masks of the photo's size, best first."""
    from PIL import Image

    from pipeline.steps.regions import RunLengths

    found = generator(
        Image.fromarray(photo.rgb),
        points_per_crop=settings.points,
        points_per_batch=settings.points_at_once,
        pred_iou_thresh=settings.quality,
        stability_score_thresh=settings.stability,
        crops_nms_thresh=settings.overlap,
        crops_n_layers=settings.crops,
    )
    return RunLengths.of((mask for mask in map(_array, found["masks"]) if mask.any()), photo.rgb.shape[:2])


def _array(mask: Any) -> Any:
    import numpy as np

    return np.asarray(mask, dtype=bool)


def complete(settings: SamSettings) -> SamSettings:
    from zsseg.proposals.hub import identity_of

    return replace(settings, identity=identity_of(settings.weights))


PROPOSER = Proposer(SamSettings, load, complete, network=True)
