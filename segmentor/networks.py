"""Segmentation networks by name: SegFormer from transformers, DeepLabV3 from torchvision.

A network is a body, whose features lie on a coarse grid, and a head that scores them; a parameter with `head` in its
name belongs to what is new and learns faster. transformers and torchvision are imported when they are needed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmentor.heads import TextHead, linear

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
    """A network with random weights for C labels; `arch` is one of ARCHES, `head` one of segmentor.heads.HEADS.

    text_width, background  for the text head: D of its embeddings, and whether label 0 is the background
    """
    if head == "text":
        body = ARCHES[arch](text_width)
        return Segmentor(body, TextHead(text_width, labels - int(background), background))
    body = ARCHES[arch]()
    return Segmentor(body, linear(body.width, labels))


# --- SegFormer ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SegformerSizes:
    """What tells the SegFormers apart; one number a stage."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    decoder: int
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    drop_path: float = 0.1
    dropout: float = 0.1

    def config(self) -> Any:
        """The same as transformers wants it."""
        from transformers import SegformerConfig

        return SegformerConfig(
            hidden_sizes=list(self.widths),
            depths=list(self.depths),
            num_attention_heads=list(self.heads),
            sr_ratios=list(self.reductions),
            decoder_hidden_size=self.decoder,
            drop_path_rate=self.drop_path,
            classifier_dropout_prob=self.dropout,
        )


_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
SEGFORMERS = {
    "segformer-tiny": SegformerSizes((16, 32, 64, 96), (1, 1, 2, 1), 96, (1, 2, 4, 4), drop_path=0.0, dropout=0.0),
    "segformer-b0": SegformerSizes(_NARROW, (2, 2, 2, 2), 256),
    "segformer-b1": SegformerSizes(_WIDE, (2, 2, 2, 2), 256),
    "segformer-b2": SegformerSizes(_WIDE, (3, 4, 6, 3), 768),
    "segformer-b3": SegformerSizes(_WIDE, (3, 4, 18, 3), 768),
    "segformer-b4": SegformerSizes(_WIDE, (3, 8, 27, 3), 768),
    "segformer-b5": SegformerSizes(_WIDE, (3, 6, 40, 3), 768),
}


class SegformerBody(Body):
    """SegFormer up to its fused features, on a quarter of the image's grid.

    width  of the features, if not the usual one; they are for the text head then, which was published without dropout
    """

    def __init__(self, sizes: SegformerSizes, width: int | None = None) -> None:
        super().__init__()
        if width is not None:
            sizes = replace(sizes, decoder=width, dropout=0.0)
        self.sizes = sizes
        from transformers import SegformerModel
        from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

        config = sizes.config()
        self.width = sizes.decoder
        self.encoder = SegformerModel(config)
        decode_head: Any = SegformerDecodeHead(config)
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


# --- DeepLabV3 ------------------------------------------------------------------------------------

DEEPLABS = {  # torchvision's names
    "deeplabv3-resnet50": "deeplabv3_resnet50",
    "deeplabv3-resnet101": "deeplabv3_resnet101",
    "deeplabv3-mobilenet": "deeplabv3_mobilenet_v3_large",
}


class DeeplabBody(Body):
    """DeepLabV3 up to its last but one convolution; an eighth of the image's grid (MobileNet: a sixteenth).

    width  of the features, if not the usual one: up to its last convolution, which then gives so many channels
    """

    def __init__(self, name: str, width: int | None = None) -> None:
        super().__init__()
        from torchvision.models import get_model

        whole = get_model(name, weights=None, weights_backbone=None, num_classes=width or 1, aux_loss=False)
        layers = list(whole.classifier)
        self.width = width or layers[-1].in_channels
        self.encoder = whole.backbone
        self.decode_head = nn.Sequential(*(layers if width else layers[:-1]))

    def features(self, images: Tensor) -> Tensor:
        return self.decode_head(self.encoder(images)["out"])


ARCHES: dict[str, Callable[..., Body]] = {name: partial(SegformerBody, sizes) for name, sizes in SEGFORMERS.items()} | {
    name: partial(DeeplabBody, theirs) for name, theirs in DEEPLABS.items()
}


def count_parameters(network: nn.Module) -> int:
    """How many numbers the network learns."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def norm_parameters(network: nn.Module) -> set[str]:
    """Names of the parameters of normalisation layers."""
    kinds = (nn.LayerNorm, nn.GroupNorm, torch.nn.modules.batchnorm._NormBase)
    named = ((name, module) for name, module in network.named_modules() if isinstance(module, kinds))
    return {f"{name}.{key}" for name, module in named for key, _ in module.named_parameters(recurse=False)}
