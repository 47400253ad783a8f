"""Masks by segment-anything and its successors, by transformers' mask generation.

SAM (Kirillov et al., ICCV 2023), SAM-HQ (Ke et al., NeurIPS 2023), SAM 2 (Ravi et al., 2024), EdgeTAM (Zhou et al.,
2025), and the tracker of SAM 3 (Carion et al., 2025).

A grid of points asks for masks; those that the network is sure of, and that hold when the threshold moves, are kept,
and of nearly equal ones the best.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from common.arguments import count, option, positive
from zsseg.proposals.proposer import Photo, Propose, Proposer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.steps.regions import RunLengths

KINDS = ("sam", "sam_hq", "sam2", "sam2_video", "edgetam", "edgetam_video", "sam3_tracker", "sam3_video")
PROMPTS_AT_ONCE = 16


def weights_option() -> Any:
    """Which network; its masks vote, or it is asked for the parts of classes."""
    return option(
        None,
        "SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3: a folder in transformers' form or a name such as facebook/sam-vit-base",
        flag="--sam",
        type=str,
        metavar="DIR|NAME",
    )


@dataclass(frozen=True)
class SamSettings:
    """Which network, and which of its masks are kept; the numbers are the published ones."""

    weights: str | None = weights_option()
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
    from common.errors import UserError
    from zsseg.proposals.hub import load_pretrained

    def made(name: str, local_files_only: bool) -> Any:
        from transformers import AutoImageProcessor, AutoModelForMaskGeneration, pipeline

        read: Any = AutoModelForMaskGeneration.from_pretrained
        network, found = read(name, local_files_only=local_files_only, use_safetensors=True, output_loading_info=True)
        if missing := sorted(found["missing_keys"]):  # they would be random
            raise UserError(f"--sam {name}: weight {missing[0]} is missing ({len(missing)} in all); a damaged folder")
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


_one_at_a_time = Lock()  # threads that refine share the network


def answers(
    weights: str | None, device: torch.device | str, rgb: np.ndarray, boxes: np.ndarray, points: np.ndarray
) -> Iterator[tuple[np.ndarray, float]]:
    """One mask for each box (n, 4) with a point (n, 2) in it, in pixels of a photo (H, W, 3) uint8.

    Yields logits (H, W) float32 and the network's opinion of their quality. Raises UserError as `load`.
    """
    import torch
    from PIL import Image

    generator = _generator(weights, str(device))
    network, processor = generator.model, generator.image_processor
    inputs = processor(images=Image.fromarray(rgb), return_tensors="pt")
    whole, reshaped = inputs["original_sizes"].tolist(), inputs.get("reshaped_input_sizes")
    height, width = inputs["pixel_values"].shape[-2:] if reshaped is None else reshaped[0].tolist()
    scale = torch.tensor([width / whole[0][1], height / whole[0][0]], dtype=torch.float32)
    with _one_at_a_time, torch.no_grad():
        seen = network.get_image_embeddings(inputs["pixel_values"].to(network.device))
    names = ("image_embeddings", "intermediate_embeddings")
    given = dict(zip(names, seen)) if isinstance(seen, tuple) else {names[0]: seen}
    sizes = {} if reshaped is None else {"reshaped_input_sizes": reshaped.tolist()}
    for start in range(0, len(boxes), PROMPTS_AT_ONCE):
        some = slice(start, start + PROMPTS_AT_ONCE)
        places = (torch.from_numpy(points[some]) * scale)[None, :, None]
        asked = {
            "input_points": places.to(network.device),
            "input_labels": torch.ones(places.shape[:-1], dtype=torch.int64, device=network.device),
            "input_boxes": (torch.from_numpy(boxes[some]) * scale.repeat(2))[None].to(network.device),
        }
        with _one_at_a_time, torch.no_grad():
            found = network(**given, **asked, multimask_output=False)
        low, qualities = found.pred_masks.float().cpu(), found.iou_scores.float().flatten().tolist()
        masks = processor.post_process_masks(low, whole, binarize=False, **sizes)[0][:, 0]
        yield from zip(masks.numpy(), qualities)


def complete(settings: SamSettings) -> SamSettings:
    from zsseg.proposals.hub import identity_of

    return replace(settings, identity=identity_of(settings.weights))


PROPOSER = Proposer(SamSettings, load, complete, network=True)
