"""MaskFormer (Cheng et al., 2021) whose classes are text embeddings (zsseg: Xu et al., 2022).

The modules have the names of the published checkpoints, so that nothing is renamed when one is read. transformers'
MaskFormer gives the position embedding and the losses; its other parts have other names for the same sums.

Shapes: B images, Q queries, L decoder layers, D width of the text embeddings, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerHungarianMatcher,
    MaskFormerLoss,
    MaskFormerSinePositionEmbedding,
)

from zsseg.resnet import FrozenBatchNorm2d, Norm, NormConv, ResNet
from zsseg.sizes import Sizes

GROUPS = 32  # of the group norms
COSTS = {"class": 1.0, "mask": 20.0, "dice": 1.0}  # weights of the losses, and of the costs when queries are matched
NO_OBJECT = 0.1  # weight of queries without an object in the loss of the classes
DIVISOR = 32  # of the sides of the images
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Predictions:
    """The outputs of every decoder layer, the last one last.

    embeddings   (L, B, Q, D), of any length
    class_logits (L, B, Q, C+1), the last column for "no object"
    mask_logits  (L, B, Q, h, w) on a quarter of the images' grid
    """

    embeddings: Tensor
    class_logits: Tensor
    mask_logits: Tensor


def group_norm(channels: int) -> nn.Module:
    """Of the pixel decoder."""
    return nn.GroupNorm(GROUPS, channels)


def backbone_group_norm(channels: int) -> nn.Module:
    """Of a backbone that starts from random weights: 16 channels a group (Wu and He, 2018)."""
    return nn.GroupNorm(max(1, channels // 16), channels)


BACKBONE_NORMS: dict[str, Norm] = {"frozen": FrozenBatchNorm2d, "group": backbone_group_norm}


class PixelDecoder(nn.Module):
    """Features of the four stages to (B, masks, H/4, W/4): from the coarsest on, each added to the next finer one."""

    def __init__(self, channels: Sequence[int], features: int, masks: int) -> None:
        super().__init__()
        for number, inputs in enumerate(channels[:-1], start=1):
            self.add_module(f"adapter_{number}", NormConv(inputs, features, 1, group_norm))
            self.add_module(f"layer_{number}", NormConv(features, features, 3, group_norm))
        self.layer_4 = NormConv(channels[-1], features, 3, group_norm)
        self.mask_features = nn.Conv2d(features, masks, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        values = self.layer_4(features[-1]).relu()
        for number in (3, 2, 1):
            lateral = self.get_submodule(f"adapter_{number}")(features[number - 1])
            values = lateral + F.interpolate(values, size=lateral.shape[-2:], mode="nearest")
            values = self.get_submodule(f"layer_{number}")(values).relu()
        return self.mask_features(values)


class DecoderLayer(nn.TransformerDecoderLayer):
    """DETR's decoder layer: positions are added to queries and keys, not to values; norms come last."""

    def forward(self, target: Tensor, memory: Tensor, positions: Tensor, queries: Tensor) -> Tensor:  # type: ignore[override]
        """target, queries (B, Q, d); memory, positions (B, h*w, d)."""
        asked = target + queries
        found = self.self_attn(asked, asked, target, need_weights=False)[0]
        target = self.norm1(target + self.dropout1(found))
        found = self.multihead_attn(target + queries, memory + positions, memory, need_weights=False)[0]
        target = self.norm2(target + self.dropout2(found))
        return self.norm3(target + self._ff_block(target))


class Decoder(nn.Module):
    """The decoder layers in turn; one norm is applied to the output of each."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(sizes.hidden, sizes.heads, sizes.feedforward, batch_first=True) for _ in range(sizes.layers)
        )
        self.norm = nn.LayerNorm(sizes.hidden)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, memory: Tensor, positions: Tensor, queries: Tensor) -> Tensor:
        """(L, B, Q, d) from memory and positions (B, h*w, d) and queries (B, Q, d)."""
        target, outputs = torch.zeros_like(queries), []
        for layer in self.layers:
            target = layer(target, memory, positions, queries)
            outputs.append(self.norm(target))
        return torch.stack(outputs)


class Transformer(nn.Module):
    """A decoder without an encoder."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.decoder = Decoder(sizes)


class Mlp(nn.Module):
    """Linear layers with ReLUs between."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, values: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            values = layer(values).relu()
        return self.layers[-1](values)


class Predictor(nn.Module):
    """Queries that look at the coarsest features, and what becomes of them: an embedding and a mask each."""

    def __init__(self, channels: int, sizes: Sizes) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.positions = MaskFormerSinePositionEmbedding(hidden // 2, normalize=True)
        self.transformer = Transformer(sizes)
        self.query_embed = nn.Embedding(sizes.queries, hidden)
        self.input_proj = nn.Conv2d(channels, hidden, 1)
        self.class_embed = Mlp(hidden, sizes.class_hidden, sizes.text_width)
        self.mask_embed = Mlp(hidden, hidden, hidden, sizes.masks)
        nn.init.kaiming_uniform_(self.input_proj.weight, a=1)
        nn.init.zeros_(self.input_proj.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (L, B, Q, D) and mask logits (L, B, Q, h, w).

        features  (B, channels, H/32, W/32); padding of the images is looked at like the rest
        """
        memory = self.input_proj(features)
        positions = self.positions(memory.shape, memory.device, torch.float32).to(memory.dtype)
        queries = self.query_embed.weight.expand(len(memory), -1, -1)
        rows = [values.flatten(2).transpose(1, 2) for values in (memory, positions)]
        outputs = self.transformer.decoder(*rows, queries)
        masks = torch.einsum("lbqm,bmhw->lbqhw", self.mask_embed(outputs), mask_features)
        return self.class_embed(outputs), masks


class Head(nn.Module):
    """Pixel decoder and predictor."""

    def __init__(self, channels: Sequence[int], sizes: Sizes) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(channels, sizes.features, sizes.masks)
        self.predictor = Predictor(channels[-1], sizes)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.predictor(features[-1], self.pixel_decoder(features))


class PromptVectors(nn.Module):
    """Learned context vectors, and the embeddings of the tokens around them; the names are the checkpoints'.

    tensors  prefix_prompt and suffix_prompt, which learn, start_signal, dot_signal, end_signal, pad_signal
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            if name.endswith("_signal"):
                self.register_buffer(name, value.clone())
            else:
                self.register_parameter(name, nn.Parameter(value.clone()))


class ClipAdapter(nn.Module):
    """What a network holds of a CLIP's words: the vector that stands for "no object", and learned prompts if any.

    CLIP itself is not in here.
    """

    def __init__(self, text_width: int, prompts: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.non_object_embedding = nn.Parameter(torch.randn(1, text_width) * text_width**-0.5)
        self.register_buffer("pixel_mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(CLIP_STD).view(1, 3, 1, 1))
        if prompts:
            self.prompt_learner = PromptVectors(prompts)

    def rows(self, text: Tensor) -> Tensor:
        """(C+1, D): unit embeddings of the classes (C, D), then the unit vector of "no object"."""
        return torch.cat([text, F.normalize(self.non_object_embedding, dim=-1)])


class MaskFormer(nn.Module):
    """Images and the text embeddings of classes to masks and their classes.

    clip_adapter          of the text that queries are compared with
    _region_clip_adapter  of the text that CLIP compares image regions with, where that is another one; its vector for
                          "no object" was never trained
    criterion             the losses; its weights of the classes are part of a checkpoint

    prompts, region_prompts  the tensors of their PromptVectors; region_prompts None: there is no second adapter
    """

    def __init__(
        self,
        sizes: Sizes,
        prompts: Mapping[str, Tensor] | None = None,
        region_prompts: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.backbone = ResNet(sizes.width, sizes.blocks, sizes.deep_stem, BACKBONE_NORMS[sizes.norm])
        self.sem_seg_head = Head(self.backbone.channels, sizes)
        self.clip_adapter = ClipAdapter(sizes.text_width, prompts)
        self._region_clip_adapter = None
        if region_prompts is not None:
            self._region_clip_adapter = ClipAdapter(sizes.text_width, region_prompts)
        matcher = MaskFormerHungarianMatcher(COSTS["class"], COSTS["mask"], COSTS["dice"])
        self.criterion = MaskFormerLoss(sizes.classes, matcher, COSTS, NO_OBJECT)

    def forward(self, images: Tensor, text: Tensor) -> Predictions:
        """Of (B, 3, H, W) normalised images, sides divisible by DIVISOR, and (C, D) unit text embeddings."""
        embeddings, masks = self.sem_seg_head(self.backbone(images))
        with torch.autocast(images.device.type, enabled=False):  # cosines of 8 bits, times 100, would be noise
            cosines = F.normalize(embeddings.float(), dim=-1) @ self.clip_adapter.rows(text).T
        return Predictions(embeddings, self.sizes.logit_scale * cosines, masks)
