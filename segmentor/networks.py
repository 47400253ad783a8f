"""Segmentation networks by name: SegFormer from transformers, DeepLabV3 from torchvision.

A network is a body, whose features lie on a coarse grid, and a head that scores them; a parameter with `head` in its
name belongs to what is new and learns faster. transformers and torchvision are imported when they are needed.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmentor.settings import DEEPLABS

LEAST_SIDE = 64  # the coarsest stages of SegFormer need some patches to look at; smaller images are padded


class Body(nn.Module):
    """An encoder and a decode head: (B, 3, H, W) normalised images to (B, width, h, w) features."""

    width: int
    encoder: nn.Module
    decode_head: nn.Module

    def features(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = (max(0, LEAST_SIDE - side) for side in images.shape[-2:])
        return self.features(F.pad(images, (0, columns, 0, rows)) if rows or columns else images)


class TextHead(nn.Module):
    """Features (B, D, h, w) times text embeddings to (B, C, h, w) scores (MaskCLIP+: Zhou et al., 2022, section 3.3).

    Features as they are, no temperature.

    classes     K; `set_embeddings` gives their unit embeddings (K, D), which are not learned but saved with the weights
    background  whether label 0 is the background: one more vector, which is learned, of unit length when used
    """

    embeddings: Tensor

    def __init__(self, width: int, classes: int, background: bool) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(classes, width))
        self.background = nn.Parameter(torch.randn(1, width)) if background else None

    @torch.no_grad()
    def set_embeddings(self, embeddings: Tensor) -> None:
        """Copy the (K, D) unit embeddings of the classes."""
        self.embeddings.copy_(embeddings)

    def vectors(self) -> Tensor:
        """(C, D) unit vectors by label."""
        if self.background is None:
            return self.embeddings
        return torch.cat([F.normalize(self.background, dim=-1), self.embeddings])

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.vectors()[:, :, None, None])


class Segmentor(nn.Module):
    """(B, 3, H, W) normalised images to (B, C, h, w) scores on the body's grid."""

    def __init__(self, body: Body, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def enlarged(scores: Tensor, images: Tensor) -> Tensor:
    """(B, C, h, w) scores of (B, 3, H, W) images as float32 (B, C, H, W), bilinear."""
    height, width = images.shape[-2:]
    grown = max(height, LEAST_SIDE), max(width, LEAST_SIDE)  # as Body padded them
    return F.interpolate(scores.float(), size=grown, mode="bilinear", align_corners=False)[..., :height, :width]


def build(arch: str, labels: int, head: str = "linear", text_width: int = 0, background: bool = True) -> Segmentor:
    """A network with random weights for C labels; `arch` is one of ARCHES, `head` one of segmentor.settings.HEADS.

    text_width, background  for the text head: D of its embeddings, and whether label 0 is the background
    """
    if head == "text":
        body = ARCHES[arch](text_width)
        return Segmentor(body, TextHead(text_width, labels - int(background), background))
    body = ARCHES[arch]()
    return Segmentor(body, nn.Conv2d(body.width, labels, kernel_size=1))


SEGFORMER_SIZES = {  # widths and depths of the four stages, width of the decoder
    "segformer-tiny": ((16, 32, 64, 96), (1, 1, 2, 1), 96),
    "segformer-b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "segformer-b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "segformer-b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "segformer-b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "segformer-b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "segformer-b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}


def segformer_config(arch: str, width: int | None = None) -> Any:
    """One of SEGFORMER_SIZES as transformers wants it.

    width  of the features, if not the usual one; they are for the text head then, which was published without dropout
    """
    from transformers import SegformerConfig

    widths, depths, decoder = SEGFORMER_SIZES[arch]
    tiny = arch == "segformer-tiny"
    return SegformerConfig(
        hidden_sizes=list(widths),
        depths=list(depths),
        num_attention_heads=[1, 2, 4, 4] if tiny else [1, 2, 5, 8],
        decoder_hidden_size=width or decoder,
        drop_path_rate=0.0 if tiny else 0.1,
        classifier_dropout_prob=0.0 if tiny or width else 0.1,
    )


class SegformerBody(Body):
    """SegFormer up to its fused features, on a quarter of the image's grid; arguments as of segformer_config."""

    def __init__(self, arch: str, width: int | None = None) -> None:
        super().__init__()
        from transformers import SegformerModel
        from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

        self.config = segformer_config(arch, width)
        self.width = self.config.decoder_hidden_size
        self.encoder = SegformerModel(self.config)
        decode_head: Any = SegformerDecodeHead(self.config)
        decode_head.classifier = nn.Identity()
        self.decode_head = decode_head
        self.apply(_start)

    def features(self, images: Tensor) -> Tensor:
        states, state = [], images
        stages: Any = self.encoder.stages
        for stage in stages:
            state = stage(state)
            states.append(state)
        return self.decode_head(tuple(states))


def _start(module: nn.Module) -> None:
    """Random weights as SegFormer's authors draw them.

    transformers draws convolutions with a deviation of 0.02 too, which all but silences the depthwise ones.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


class DeeplabBody(Body):
    """DeepLabV3 up to its last but one convolution; an eighth of the image's grid (MobileNet: a sixteenth).

    width  of the features, if not the usual one: up to its last convolution, which then gives so many channels
    """

    def __init__(self, name: str, width: int | None = None) -> None:
        super().__init__()
        from torchvision.models import get_model

        model = get_model(name, weights=None, weights_backbone=None, num_classes=width or 1, aux_loss=False)
        layers = list(model.classifier)
        self.width = width or layers[-1].in_channels
        self.encoder = model.backbone
        self.decode_head = nn.Sequential(*(layers if width else layers[:-1]))

    def features(self, images: Tensor) -> Tensor:
        return self.decode_head(self.encoder(images)["out"])


ARCHES: dict[str, Callable[..., Body]] = {name: partial(SegformerBody, name) for name in SEGFORMER_SIZES} | {
    name: partial(DeeplabBody, theirs) for name, theirs in DEEPLABS.items()
}
