"""The CAM methods by name, each composed of the steps.

A method takes a batch of images that share a patch grid and returns (cam, attn) maps for each; a new method is a
function here or in a file of its own, a line in METHODS, and a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from clip.image import AS_CLIP_ES, Preparation
from clip.load import Clip
from clip.resnet import is_resnet, resnet_trunk
from clip.transformer import VisionTransformer
from clip.vision import RunBlock, TrunkFeatures, run_block, vision_trunk, with_exact_gelu
from common.errors import UserError
from pipeline.methods import maskclip as dense
from pipeline.methods.maskclip import MaskClipSettings
from pipeline.steps.affinity import ATTENTION_BLOCKS, mean_attention, refine, transition_matrix
from pipeline.steps.cam import softmax_gradcam
from pipeline.steps.tensors import min_max
from pipeline.steps.tta import averaged, transforms

MapPair = tuple[Tensor, Tensor]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PUBLISHED_FRAME = (2048, 512)  # MaskCLIP's for VOC, COCO-Stuff and ADE20K


@dataclass(frozen=True)
class CamSettings:
    """What a method may be told; part of every CAM file's record.

    box_threshold  share of a CAM's maximum above which a pixel enters a box
    scales, flip   test-time augmentation; (1.0,) and False: none
    max_side       larger images are shrunk to this side, in pixels, for CLIP; the maps still stand for all of them
    precision      one of PRECISIONS, of all blocks but the last; that, its gradients and the affinity are float32
    compile        whether those blocks are compiled by torch.compile
    maskclip       what the MaskCLIP methods are told besides; None, and not in the record, for the others
    """

    method: str = "clip-es"
    box_threshold: float = 0.4
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    max_side: int = 1024
    precision: str = "float32"
    compile: bool = False
    maskclip: MaskClipSettings | None = None


@dataclass(frozen=True)
class TextSet:
    """foreground (K, E) and background (b, E) unit text embeddings, on CLIP's device."""

    foreground: Tensor
    background: Tensor


def _trunk(
    visual: VisionTransformer, images: Tensor, settings: CamSettings, how: str, kept: int = ATTENTION_BLOCKS
) -> TrunkFeatures:
    """All blocks but the last in the precision asked for; `how` positions are resized, `kept` blocks' attention."""
    precision = PRECISIONS[settings.precision]
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        run = compiled_block() if settings.compile else run_block
        return vision_trunk(visual, images, kept, run=run, positions=how)


@cache
def compiled_block() -> RunBlock:
    """`run_block`, compiled when first called; once for all blocks and sizes of images."""
    return torch.compile(run_block, dynamic=True)


def clip_es(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """CLIP-ES on a batch (B, 3, h*p, w*p): B pairs of (k_i, h, w) maps in [0, 1], before and after the affinity."""
    trunk = _trunk(clip.visual, images, settings, "bilinear")
    cams, attention = softmax_gradcam(
        clip.visual,
        trunk.last_input.float(),
        trunk.grid,
        labels,
        text.foreground,
        text.background,
        clip.logit_scale,
    )
    transitions = transition_matrix(mean_attention([*trunk.attention, attention]))
    return list(zip(cams, refine(transitions, cams, settings.box_threshold)))


# --- MaskCLIP -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Patches:
    """What MaskCLIP's variants make of a batch, the same for ViTs and ResNets.

    features   (B, N, E) in the space of the text embeddings
    keys       (B, N, D) for key smoothing, or None for the variant without it
    attention  one (B, N, N) tensor a block for the affinity; none of a ResNet, nor where it was not asked for
    """

    features: Tensor
    keys: Tensor | None
    attention: tuple[Tensor, ...]
    grid: tuple[int, int]


def maskclip(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """MaskCLIP as its official code has it: B pairs of (k_i, h, w) logits, or probabilities with key smoothing.

    The image tower runs with the exact GELU and a smaller epsilon in its layer norms, whatever it was trained with.
    """
    return _dense_maps(clip, _official_patches(clip, images, settings), labels, text, settings)


def maskclip_v(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """MaskCLIP as the pip package has it: B pairs of (k_i, h, w) logits, of features that are not of unit length."""
    return _dense_maps(clip, _package_patches(clip, images, settings), labels, text, settings)


def dense_scores(clip: Clip, images: Tensor, text: TextSet, settings: CamSettings) -> Tensor:
    """What a dense method's maps are before the affinity, of all classes of `text`: (B, K, h, w), of the method's kind.

    images  (B, 3, h*p, w*p), normalised as the method wants them
    Nothing is spent on the affinity, and there is no test-time augmentation.
    """
    patches_of = METHODS[settings.method].patches
    assert patches_of is not None, f"{settings.method} is not dense"
    every = [range(len(text.foreground))] * len(images)
    return torch.stack(_score_maps(clip, patches_of(clip, images, settings, 0), every, text, settings))


def _official_patches(clip: Clip, images: Tensor, settings: CamSettings, kept: int = ATTENTION_BLOCKS) -> _Patches:
    """Of the official variant; the attention of the last `kept` blocks, or of none."""
    if is_resnet(clip.visual):
        cells, grid = _resnet_cells(clip, images, settings)
        return _Patches(*dense.identity_features_resnet(clip.visual, cells), (), grid)
    visual = _exact_gelu(clip.visual)
    trunk = _trunk(visual, images, settings, "bicubic", kept)
    last_input = trunk.last_input.float()
    attention = (*trunk.attention, dense.last_block(visual, last_input)[1]) if kept else ()
    features, keys = dense.identity_features(visual, last_input)
    return _Patches(features, keys, attention, trunk.grid)


def _package_patches(clip: Clip, images: Tensor, settings: CamSettings, kept: int = ATTENTION_BLOCKS) -> _Patches:
    """Of the pip package's variant; the attention of the last `kept` blocks, or of none."""
    if is_resnet(clip.visual):
        cells, grid = _resnet_cells(clip, images, settings)
        return _Patches(dense.value_features_resnet(clip.visual, cells, grid), None, (), grid)
    trunk = _trunk(clip.visual, images, settings, "bicubic", kept)
    last_input = trunk.last_input.float()
    last_output, attention = dense.last_block(clip.visual, last_input)
    features = dense.value_features(clip.visual, last_input, last_output)
    return _Patches(features, None, (*trunk.attention, attention) if kept else (), trunk.grid)


def _resnet_cells(clip: Clip, images: Tensor, settings: CamSettings) -> tuple[Tensor, tuple[int, int]]:
    precision = PRECISIONS[settings.precision]
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        cells, grid = resnet_trunk(clip.visual, images)
    return cells.float(), grid


@lru_cache(maxsize=1)  # of the model in use; making it takes longer than looking at it
def _exact_gelu(visual: VisionTransformer) -> VisionTransformer:
    return with_exact_gelu(visual, dense.LAYER_NORM_EPSILON)


def _dense_maps(
    clip: Clip, patches: _Patches, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """Scores of the given classes against each other and the background prompts, and the same along the affinity."""
    every = _score_maps(clip, patches, labels, text, settings)
    return [(maps, _refined(maps, [block[index] for block in patches.attention])) for index, maps in enumerate(every)]


def _score_maps(
    clip: Clip, patches: _Patches, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[Tensor]:
    """B maps (k_i, h, w): scores of the given classes against each other and the background prompts."""
    own = settings.maskclip or MaskClipSettings()
    cosines = patches.features @ torch.cat([text.foreground, text.background]).T  # (B, N, K+b)
    background = range(len(text.foreground), cosines.shape[-1])
    found = []
    for index, present in enumerate(labels):
        keys = None if patches.keys is None else patches.keys[index]
        scores = _scores(cosines[index][:, [*present, *background]], keys, len(present), clip.logit_scale, own)
        found.append(scores.T.reshape(len(present), *patches.grid))  # (N, k) -> (k, h, w)
    return found


def _scores(cosines: Tensor, keys: Tensor | None, count: int, scale: Tensor, own: MaskClipSettings) -> Tensor:
    """(N, k+b) cosines to (N, k) logits or, with key smoothing, probabilities. The published order: PD, then KS."""
    if own.denoising > 0:
        cosines = dense.denoise(cosines, scale, own.denoising)
    if own.key_smoothing > 0 and keys is not None:
        smoothed = dense.smooth(cosines, keys, scale, own.key_smoothing, own.smoothing_norm)
        return dense.to_distribution(smoothed, (scale * cosines).softmax(dim=-1))[:, :count]
    return dense.against_background(scale * cosines, count)


def _refined(maps: Tensor, attention: Sequence[Tensor]) -> Tensor:
    """Maps (k, h, w) along the affinity of L attention maps (N, N); as they are where there is no attention."""
    return dense.spread(transition_matrix(mean_attention(attention)), maps) if attention else maps


# --- the methods by name --------------------------------------------------------------------------

MapsOf = Callable[[Clip, Tensor, Sequence[Sequence[int]], TextSet, CamSettings], list[MapPair]]
PatchesOf = Callable[[Clip, Tensor, CamSettings, int], _Patches]


@dataclass(frozen=True)
class Method:
    """A method, and what it wants of its surroundings.

    maps         the function
    preparation  how it wants its images, given the model and settings
    resnets      whether it can do with a CLIP whose image tower is a ResNet
    smoothing    whether it knows key smoothing
    patches      of a dense method: what its scores are made of, for `dense_scores`
    """

    maps: MapsOf
    preparation: Callable[[Clip, CamSettings], Preparation]
    patches: PatchesOf | None = None
    resnets: bool = False
    smoothing: bool = False

    @property
    def dense(self) -> bool:
        """Whether its maps are scores of every patch for itself (kinds "logit" and "probability").

        It is then told MaskClipSettings, and asked with MASKCLIP85 unless told otherwise; else its maps are "cam".
        """
        return self.patches is not None

    def kind(self, settings: CamSettings) -> str:
        """What the values of the maps are; one of pipeline.steps.maps.KINDS."""
        if not self.dense:
            return "cam"
        own = settings.maskclip
        return "probability" if self.smoothing and own is not None and own.key_smoothing > 0 else "logit"


def _as_clip_es(clip: Clip, settings: CamSettings) -> Preparation:
    return AS_CLIP_ES


def _official(clip: Clip, settings: CamSettings) -> Preparation:
    """ImageNet's normalisation (sic), zeros at the far corner. A ResNet's image is stretched: it has no patches to
    fill, and zeros of up to 31 pixels would displace its maps."""
    frame = settings.maskclip.frame if settings.maskclip else None
    fit = "stretch" if is_resnet(clip.visual) else "pad"
    return Preparation(fit, PUBLISHED_FRAME if frame is None else frame, "imagenet")


def _package(clip: Clip, settings: CamSettings) -> Preparation:
    frame = settings.maskclip.frame if settings.maskclip else None
    return Preparation("square", frame or (native_side(clip),))


def native_side(clip: Clip) -> int:
    """Side in pixels of the square images that the model was trained with."""
    return int(clip.visual.image_size)


METHODS: dict[str, Method] = {
    "clip-es": Method(clip_es, _as_clip_es),
    "maskclip": Method(maskclip, _official, _official_patches, resnets=True, smoothing=True),
    "maskclip-v": Method(maskclip_v, _package, _package_patches, resnets=True),
}


def check_told(name: str, told: Mapping[str, Any]) -> None:
    """Raise UserError for a method that does not exist, and for options that it does not know.

    told  fields of MaskClipSettings
    """
    if name not in METHODS:
        raise UserError(f"--method {name}: unknown; expected one of {', '.join(METHODS)}")
    method = METHODS[name]
    smoothed = told.get("key_smoothing") or told.get("denoising")
    if smoothed and not method.smoothing:
        raise UserError(f"--key_smoothing and --prompt_denoising go with --method maskclip, not with {name}")
    frame = told.get("frame")
    if frame is None:
        return
    if not method.dense:
        raise UserError(f"--frame goes with the MaskCLIP methods, not with {name}; there is --max_side")
    if len(frame) not in ((0, 2) if method.smoothing else (1,)):
        expected = "LONG SHORT, or 0 for the images' own size" if method.smoothing else "one side"
        raise UserError(f"--frame with --method {name}: expected {expected}")


def compute_maps(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[MapPair]:
    """The chosen method on a batch, with test-time augmentation where the settings ask for it."""
    method = METHODS[settings.method]
    if settings.scales == (1.0,) and not settings.flip:
        return method.maps(clip, images, labels, text, settings)
    return averaged(
        lambda variant: method.maps(clip, variant, labels, text, settings),
        images,
        transforms(settings.scales, settings.flip),
        clip.patch_size,
        min_max if method.kind(settings) == "cam" else torch.clone,
    )
