"""TagCLIP (Lin et al., AAAI 2024): which classes an image shows, where there are no labels.

Coarse scores of the patches -> spread along voted attention -> spread again inside boxes -> scores of the likely
classes in crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.arguments import option
from pipeline.methods.maskclip import TEMPLATES

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from clip.load import Clip
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import TextSet

PUBLISHED_BLOCKS = 12  # of ViT-B/16, for which the numbers below were published


@dataclass(frozen=True)
class TagSettings:
    """TagCLIP's thresholds, with the published values; their help says what they are.

    `candidate_share` and `label_share` are 0.1 for COCO-Stuff.
    """

    votes: int | None = option(
        None,
        "blocks whose attention must exceed its mean to keep an affinity; not given: 4 of every 12",
        flag="--tag_votes",
        type=int,
        metavar="N",
    )
    blocks: tuple[int, ...] | None = option(
        None,
        "0-based blocks whose attention is averaged; not given: the three before the last (8 9 10 of 12)",
        flag="--tag_blocks",
        type=int,
        many=True,
        metavar="I",
    )
    candidate_share: float = option(
        0.5,
        "share of the range of patch scores above which a class is scored again in a crop",
        flag="--tag_candidates",
        metavar="X",
    )
    region_level: float = option(
        0.5,
        "level of a class's normalised scores above which patches make its crop",
        flag="--tag_region",
        metavar="X",
    )
    crop_weight: float = option(0.5, "weight of the crop's score; 0: no crops", flag="--tag_crop_weight", metavar="X")
    label_share: float = option(
        0.5,
        "share of the range of an image's scores above which a class is a label",
        flag="--tag_threshold",
        metavar="X",
    )
    templates: str = TEMPLATES

    def votes_of(self, count: int) -> int:
        """Votes needed in a CLIP of `count` blocks, at least one."""
        return max(1, round(4 * count / PUBLISHED_BLOCKS)) if self.votes is None else self.votes

    def blocks_of(self, count: int) -> tuple[int, ...]:
        """Indices of the averaged blocks in a CLIP of `count` blocks."""
        return tuple(range(max(0, count - 4), max(1, count - 1))) if self.blocks is None else self.blocks


def check_settings(clip: Clip, settings: TagSettings) -> None:
    """Raise UserError for blocks that the model does not have."""
    from common.errors import UserError

    count = len(clip.visual.transformer.resblocks)
    wrong = [block for block in settings.blocks_of(count) if not 0 <= block < count]
    if wrong:
        raise UserError(f"--tag_blocks {wrong[0]}: this CLIP has blocks 0 to {count - 1}")
    if not 1 <= settings.votes_of(count) <= count:
        raise UserError(f"--tag_votes {settings.votes}: this CLIP has {count} blocks that vote; expected 1 to {count}")


def encode_words(clip: Clip, spec: DatasetSpec, settings: TagSettings) -> TextSet:
    """Text embeddings of the classes and background words for tagging.

    The published templates go with the bare names of VOC and COCO, without CLIP-ES's synonyms, as in TagCLIP's code.
    """
    from clip.templates import MASKCLIP85, Words, choose_templates
    from clip.text_cache import cached_words
    from pipeline.methods.method import TextSet

    published = choose_templates(clip, settings.templates) == "maskclip85"
    names = [(name,) for name in spec.classes] if published and spec.tags_by_name else spec.prompts
    groups = [*names, *((word,) for word in spec.background_prompts)]
    embeddings = cached_words(clip, Words(groups, MASKCLIP85 if published else (spec.template,)))
    return TextSet(embeddings[: len(spec.classes)], embeddings[len(spec.classes) :])


def class_scores(clip: Clip, image: Tensor, text: TextSet, settings: TagSettings) -> np.ndarray:
    """The score of every class in one image (3, h*p, w*p): (K,) float32 in [0, 1]."""
    import torch

    from clip.vision import vision_forward
    from pipeline.steps import tag_regions
    from pipeline.steps.tensors import to_numpy

    words = torch.cat([text.foreground, text.background])
    features = vision_forward(clip.visual, image[None])
    coarse = tag_regions.patch_probabilities(clip.visual, features.last_input, words, clip.logit_scale)[0]
    blocks = len(features.attention)
    affinity = tag_regions.voted_attention(
        torch.cat(features.attention), settings.votes_of(blocks), settings.blocks_of(blocks)
    )
    patch_scores = refined_scores(affinity, coarse[:, : len(text.foreground)], features.grid)  # (N, K)
    scores = to_numpy(patch_scores.amax(dim=0)).copy()
    if settings.crop_weight > 0:
        weight = settings.crop_weight
        for index, probability in crop_scores(clip, image, patch_scores, features.grid, words, settings).items():
            scores[index] = (1 - weight) * scores[index] + weight * probability
    return scores


def refined_scores(affinity: Tensor, coarse: Tensor, grid: tuple[int, int]) -> Tensor:
    """Coarse scores S (N, K) to S2 (N, K): spread once to find each class's boxes, then from S again inside them.

    affinity  W (N, N)

    Boxes stand at the mean of a class's normalised scores, by the rule of the affinity step. (TagCLIP looks for
    outer contours only; the boxes of inner ones lie inside theirs, so the union is the same.)
    """
    import numpy as np
    import torch

    from pipeline.steps.affinity import box_mask
    from pipeline.steps.tensors import to_numpy

    heats = to_numpy(_heats(affinity @ coarse, grid))
    masks = np.stack([box_mask(heat, float(heat.mean())) for heat in heats])  # (K, h, w)
    inside = torch.from_numpy(masks).flatten(1).to(coarse.device)
    return affinity @ (coarse * inside.T)  # (W * mask_c) @ S_c: the mask goes over W's columns


def _heats(scores: Tensor, grid: tuple[int, int]) -> Tensor:
    from pipeline.steps.tensors import min_max

    return min_max(scores.T.reshape(-1, *grid))  # (N, K) -> (K, h, w)


def crop_scores(
    clip: Clip, image: Tensor, scores: Tensor, grid: tuple[int, int], words: Tensor, settings: TagSettings
) -> dict[int, float]:
    """Class-wise re-identification: the probability q of each likely class in a crop of its own region."""
    import torch

    from pipeline.steps import tag_regions

    side = round((len(clip.visual.positional_embedding) - 1) ** 0.5)
    heats, regions = _heats(scores, grid), {}
    for index in tag_regions.candidates(scores, settings.candidate_share):
        region = tag_regions.region_of(heats[index], settings.region_level, side)
        if region is not None:
            regions[index] = region
    if not regions:
        return {}
    crops = torch.stack([tag_regions.crop(image, region, clip.patch_size) for region in regions.values()])
    inside = torch.stack([region.inside for region in regions.values()])
    probabilities = tag_regions.crop_probabilities(clip.visual, crops, inside, words, clip.logit_scale)
    return {index: float(row[index]) for index, row in zip(regions, probabilities)}
