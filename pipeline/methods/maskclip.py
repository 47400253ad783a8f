"""MaskCLIP (Zhou et al., ECCV 2022) as its official code has it: the last block's values, without gradients.

The image tower runs with the exact GELU and a smaller epsilon in its layer norms, whatever it was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from common.arguments import count, option
from pipeline.methods.method import CamSettings, Method, TextSet

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.transformer import VisionTransformer
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair
    from pipeline.steps.dense_features import Patches

PUBLISHED_FRAME = (2048, 512)  # for VOC, COCO-Stuff and ADE20K, in the published configurations
TEMPLATES = option(
    "auto",
    "sentences for the class names: the 85 published ones, or the data set's own; auto: the 85, unless the model never "
    "saw their words (toyworld)",
    choices=("auto", "dataset", "maskclip85"),
)


@dataclass(frozen=True)
class MaskClipSettings:
    """MaskCLIP's own settings. Both thresholds are 0 in the published baselines, and 1 and 0.5 where they are used.

    key_smoothing   positions whose highest probability is below it take those of positions with similar keys
    smoothing_norm  what similar means: keys normalised per channel over the positions ("position", as the official
                    code does it) or per position over the channels ("channel", as the paper has it)
    denoising       classes whose probability is below it everywhere in the image are ruled out
    frame           (long, short) sides that images are scaled to just fit into, (0,) for their own size; None: the data
                    set's
    templates       the prompt sentences; one of clip.templates.TEMPLATE_SETS, or "dataset"
    """

    key_smoothing: float = option(0.0, "0: off; 1.0 where published", metavar="X")
    smoothing_norm: str = option(
        "position",
        "keys are normalised over the positions, as in the official code, or each by itself, as in the paper",
        choices=("position", "channel"),
    )
    denoising: float = option(0.0, "0: off; 0.5 where published", flag="--prompt_denoising", metavar="X")
    frame: tuple[int, ...] | None = option(
        None,
        "LONG SHORT sides that images are scaled to just fit into, 0 for their own size; not given: the data set's, "
        "2048 512",
        type=count,
        many=True,
        metavar="SIDE",
    )
    templates: str = TEMPLATES


def maps(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """B pairs of (k_i, h, w) logits, or probabilities with key smoothing: each patch's scores, and the same along the
    affinity, of a batch (B, 3, h*p, w*p)."""
    from pipeline.steps.affinity import ATTENTION_BLOCKS

    found = patches(clip, images, settings, ATTENTION_BLOCKS)
    return refined(found, score_maps(clip, found, labels, text, settings))


def scores(clip: Clip, images: Tensor, text: TextSet, settings: CamSettings) -> Tensor:
    """(B, K, h, w): the maps of all classes of the text, without the affinity."""
    import torch

    every = [range(len(text.foreground))] * len(images)
    return torch.stack(score_maps(clip, patches(clip, images, settings, 0), every, text, settings))


def patches(clip: Clip, images: Tensor, settings: CamSettings, attention_blocks: int) -> Patches:
    """What the scores are made of; the attention of the last `attention_blocks` blocks, or of none."""
    from clip.resnet import is_resnet
    from pipeline.steps import dense_features as dense
    from pipeline.steps.trunk import run_trunk

    if is_resnet(clip.visual):
        cells, grid = dense.resnet_cells(clip.visual, images, settings.precision)
        return dense.Patches(*dense.identity_features_resnet(clip.visual, cells), (), grid)
    visual = _exact_gelu(clip.visual)
    trunk = run_trunk(visual, images, "bicubic", attention_blocks, settings.precision, settings.compile)
    last_input = trunk.last_input.float()
    attention = (*trunk.attention, dense.last_block(visual, last_input)[1]) if attention_blocks else ()
    features, keys = dense.identity_features(visual, last_input)
    return dense.Patches(features, keys, attention, trunk.grid)


@lru_cache(maxsize=1)  # of the model in use; making it takes longer than looking at it
def _exact_gelu(visual: VisionTransformer) -> VisionTransformer:
    from clip.vision import with_exact_gelu
    from pipeline.steps.dense_features import LAYER_NORM_EPSILON

    return with_exact_gelu(visual, LAYER_NORM_EPSILON)


def score_maps(
    clip: Clip, found: Patches, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[Tensor]:
    """B maps (k_i, h, w): scores of the given classes against each other and the background prompts."""
    import torch

    cosines = found.features @ torch.cat([text.foreground, text.background]).T  # (B, N, K+b)
    background = range(len(text.foreground), cosines.shape[-1])
    maps = []
    for index, present in enumerate(labels):
        keys = None if found.keys is None else found.keys[index]
        chosen = cosines[index][:, [*present, *background]]
        scores = _scores(chosen, keys, len(present), clip.logit_scale, settings.options or MaskClipSettings())
        maps.append(scores.T.reshape(len(present), *found.grid))  # (N, k) -> (k, h, w)
    return maps


def _scores(cosines: Tensor, keys: Tensor | None, count: int, scale: Tensor, settings: MaskClipSettings) -> Tensor:
    """(N, k+b) cosines to (N, k) logits or, with key smoothing, probabilities. Denoising comes first, as published."""
    from pipeline.steps import dense_features as dense

    if keys is not None and settings.denoising > 0:
        cosines = dense.denoise(cosines, scale, settings.denoising)
    if keys is not None and settings.key_smoothing > 0:
        smoothed = dense.smooth(cosines, keys, scale, settings.key_smoothing, settings.smoothing_norm)
        return dense.to_distribution(smoothed, (scale * cosines).softmax(dim=-1))[:, :count]
    return dense.against_background(scale * cosines, count)


def refined(found: Patches, every: Sequence[Tensor]) -> list[MapPair]:
    """Each image's maps, and the same along its affinity; as they are where there is no attention (a ResNet)."""
    from pipeline.steps.affinity import mean_attention, transition_matrix
    from pipeline.steps.dense_features import spread

    pairs = []
    for index, maps in enumerate(every):
        attention = [block[index] for block in found.attention]
        pairs.append((maps, spread(transition_matrix(mean_attention(attention)), maps) if attention else maps))
    return pairs


def complete(clip: Clip, spec: DatasetSpec, settings: MaskClipSettings) -> MaskClipSettings:
    """Raises UserError for a frame that is neither two sides nor 0."""
    from clip.templates import choose_templates
    from common.errors import UserError

    frame = spec.maskclip_frame if settings.frame is None else tuple(side for side in settings.frame if side)
    if frame is not None and len(frame) not in (0, 2):
        raise UserError("--frame with --method maskclip: expected LONG SHORT, or 0 for the images' own size")
    return replace(settings, frame=frame, templates=choose_templates(clip, settings.templates))


def prompts(spec: DatasetSpec, settings: MaskClipSettings) -> list[list[str]]:
    """Plain names in all templates. Without background words there is the word itself to compete."""
    from clip.templates import TEMPLATE_SETS, fill_templates
    from clip.text import fill_template

    words = (spec.background_prompts or ("background",)) if spec.has_background else ()
    names = [*(spec.plain_prompts or spec.prompts), *((word,) for word in words)]
    if settings.templates == "dataset":
        return fill_template(spec.template, names)
    return fill_templates(TEMPLATE_SETS[settings.templates], names)


def preparation(clip: Clip, settings: MaskClipSettings | None) -> Preparation:
    """ImageNet's normalisation (sic), zeros at the far corner. A ResNet's image is stretched: it has no patches to
    fill, and zeros of up to 31 pixels would displace its maps."""
    from clip.image import Preparation
    from clip.resnet import is_resnet

    frame = settings.frame if settings else None
    fit = "stretch" if is_resnet(clip.visual) else "pad"
    return Preparation(fit, PUBLISHED_FRAME if frame is None else frame, "imagenet")


METHOD = Method(
    maps,
    MaskClipSettings,
    complete,
    prompts,
    preparation,
    kind=lambda settings: "probability" if settings is not None and settings.key_smoothing > 0 else "logit",
    scores=scores,
    resnets=True,
)
