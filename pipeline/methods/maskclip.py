"""MaskCLIP (Zhou et al., ECCV 2022) as its official code has it: the last block's values, without gradients.

The image tower runs with the exact GELU and a smaller epsilon in its layer norms, whatever it was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.arguments import count, option
from pipeline.methods.method import CamSettings, Method, TextSet

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair, MapsOf, ScoresOf
    from pipeline.steps.dense_features import Patches

    PatchesOf = Callable[[Clip, Tensor, CamSettings, int], Patches]

PUBLISHED_FRAME = (2048, 512)  # for VOC, COCO-Stuff and ADE20K, in the published configurations
TEMPLATES = option(
    "auto",
    "sentences for the class names: the 85 published ones, or the data set's own; auto: the 85, unless the model never "
    "saw their words (toyworld)",
    choices=("auto", "dataset", "maskclip85"),
)


@dataclass(frozen=True)
class MaskClipSettings:
    """MaskCLIP's own settings; their help says what they are."""

    key_smoothing: float = option(
        0.0,
        "positions whose highest probability is below it take those of positions with similar keys; 0: off; "
        "1.0 where published",
        metavar="X",
    )
    smoothing_norm: str = option(
        "position",
        "keys are normalised over the positions, as in the official code, or each by itself, as in the paper",
        choices=("position", "channel"),
    )
    denoising: float = option(
        0.0,
        "classes whose probability is below it in the whole image are left out; 0: off; 0.5 where published",
        flag="--prompt_denoising",
        metavar="X",
    )
    frame: tuple[int, ...] | None = option(
        None,
        "LONG SHORT sides that images are scaled to just fit into, 0 for their own size; not given: the data set's, "
        "2048 512",
        type=count,
        many=True,
        metavar="SIDE",
    )
    templates: str = TEMPLATES


def map_functions(patches: PatchesOf) -> tuple[MapsOf, ScoresOf]:
    """The `maps` and the `scores` of a method that scores what `patches` returns."""

    def maps(
        clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
    ) -> list[MapPair]:
        from pipeline.steps.affinity import ATTENTION_BLOCKS, mean_attention, transition_matrix
        from pipeline.steps.dense_features import spread

        features = patches(clip, images, settings, ATTENTION_BLOCKS)
        pairs = []
        for index, scores in enumerate(score_maps(clip, features, labels, text, settings)):
            attention = [block[index] for block in features.attention]  # none of a ResNet
            spread_scores = spread(transition_matrix(mean_attention(attention)), scores) if attention else scores
            pairs.append((scores, spread_scores))
        return pairs

    def scores(clip: Clip, images: Tensor, text: TextSet, settings: CamSettings) -> Tensor:
        import torch

        classes = [range(len(text.foreground))] * len(images)
        return torch.stack(score_maps(clip, patches(clip, images, settings, 0), classes, text, settings))

    return maps, scores


def patches(clip: Clip, images: Tensor, settings: CamSettings, attention_blocks: int) -> Patches:
    """Features of the patches of a batch (B, 3, h*p, w*p), with the attention of the last `attention_blocks` blocks."""
    from clip.resnet import is_resnet
    from clip.vision import with_exact_gelu
    from pipeline.steps import dense_features as dense
    from pipeline.steps.trunk import run_trunk

    if is_resnet(clip.visual):
        cells, grid = dense.resnet_cells(clip.visual, images, settings.precision)
        return dense.Patches(*dense.identity_features_resnet(clip.visual, cells), (), grid)
    visual = with_exact_gelu(clip.visual, dense.LAYER_NORM_EPSILON)
    trunk = run_trunk(visual, images, "bicubic", attention_blocks, settings.precision, settings.compile)
    last_input = trunk.last_input.float()
    attention = (*trunk.attention, dense.last_block(visual, last_input)[1]) if attention_blocks else ()
    features, keys = dense.identity_features(visual, last_input)
    return dense.Patches(features, keys, attention, trunk.grid)


def score_maps(
    clip: Clip, patches: Patches, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[Tensor]:
    """B maps (k_i, h, w): logits of an image's classes against each other and the background prompts.

    With key smoothing they are probabilities. Denoising comes first, as published.
    """
    import torch

    from pipeline.steps import dense_features as dense

    options = settings.options if isinstance(settings.options, MaskClipSettings) else MaskClipSettings()
    cosines = patches.features @ torch.cat([text.foreground, text.background]).T  # (B, N, K+b)
    background = range(len(text.foreground), cosines.shape[-1])
    scale, maps = clip.logit_scale, []
    for index, present in enumerate(labels):
        scores, count = cosines[index][:, [*present, *background]], len(present)
        keys = None if patches.keys is None else patches.keys[index]
        if keys is not None and options.denoising > 0:
            scores = dense.denoise(scores, scale, options.denoising)
        if keys is not None and options.key_smoothing > 0:
            smoothed = dense.smooth(scores, keys, scale, options.key_smoothing, options.smoothing_norm)
            scores = dense.to_distribution(smoothed, (scale * scores).softmax(dim=-1))[:, :count]
        else:
            scores = dense.against_background(scale * scores, count)
        maps.append(scores.T.reshape(count, *patches.grid))  # (N, k) -> (k, h, w)
    return maps


def complete(clip: Clip, spec: DatasetSpec, settings: MaskClipSettings) -> MaskClipSettings:
    """Raises UserError for a frame that is neither two sides nor 0."""
    from clip.templates import choose_templates
    from common.errors import UserError

    frame = spec.maskclip_frame if settings.frame is None else tuple(side for side in settings.frame if side)
    if frame is not None and len(frame) not in (0, 2):
        raise UserError("--frame with --method maskclip: expected LONG SHORT, or 0 for the images' own size")
    return replace(settings, frame=frame, templates=choose_templates(clip, settings.templates))


def words(spec: DatasetSpec, settings: MaskClipSettings) -> Words:
    """Plain names in all templates. Without background words there is the word itself to compete."""
    from clip.templates import MASKCLIP85, Words

    background = (spec.background_prompts or ("background",)) if spec.has_background else ()
    names = [*(spec.plain_prompts or spec.prompts), *((word,) for word in background)]
    return Words(names, (spec.template,) if settings.templates == "dataset" else MASKCLIP85)


def preparation(clip: Clip, settings: MaskClipSettings | None) -> Preparation:
    """ImageNet's normalisation (sic), zeros at the far corner. A ResNet's image is stretched: it has no patches to
    fill, and zeros of up to 31 pixels would displace its maps."""
    from clip.image import Preparation
    from clip.resnet import is_resnet

    frame = settings.frame if settings else None
    fit = "stretch" if is_resnet(clip.visual) else "pad"
    return Preparation(fit, PUBLISHED_FRAME if frame is None else frame, "imagenet")


maps, scores = map_functions(patches)
METHOD = Method(
    maps,
    MaskClipSettings,
    complete,
    words,
    preparation,
    kind=lambda settings: "probability" if settings is not None and settings.key_smoothing > 0 else "logit",
    scores=scores,
    resnets=True,
)
