"""CLIP's towers, built for the weights that they get: their sizes are read from the weights.

Everything is built on the meta device, without memory or random numbers: a small file may claim the sizes of a huge
model, and what was drawn would be replaced anyway.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clip.resnet import STAGES, STRIDE, ModifiedResNet, ResNetSizes, pool_every_token, pool_input, resnet_trunk
from clip.transformer import BlockSizes, TextSizes, TextTransformer, VisionTransformer, VitSizes
from clip.vision import class_token_features, vision_forward

StateDict = Mapping[str, Tensor]
ImageSizes = VitSizes | ResNetSizes

# Head widths that differ from 64: ViT-H, ViT-g, ViT-bigG and ViT-e of open_clip's model configurations.
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
MAX_BLOCKS, MAX_CONTEXT = 200, 4096  # of a tower, in tokens; ViT-e has 56 blocks, Long-CLIP 248 tokens
VISION_KEYS = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value"}
TEXT_KEYS = {"layers", "width", "heads", "mlp_ratio", "context_length", "vocab_size"}


class HeadsError(ValueError):
    """A number of attention heads that does not divide the width."""


class CLIP(nn.Module):
    """The image tower and the logit scale: what every image needs."""

    visual: VisionTransformer | ModifiedResNet

    def __init__(self, sizes: ImageSizes, activation: str) -> None:
        super().__init__()
        if isinstance(sizes, VitSizes):
            self.visual = VisionTransformer(sizes, activation)
        else:
            self.visual = ModifiedResNet(sizes)
        self.logit_scale = nn.Parameter(torch.empty(()))

    @torch.no_grad()
    def encode_image(self, images: Tensor, positions: str = "bilinear") -> Tensor:
        """CLIP's own image features (B, E) of images (B, 3, H, W), not normalised; pixels of broken patches are lost.

        positions  how a ViT's positions are resized, as in clip.vision.resize_positions
        """
        if isinstance(self.visual, VisionTransformer):
            features = vision_forward(self.visual, images, 0, positions=positions)
            return class_token_features(self.visual, features.last_output)
        pool = self.visual.attnpool
        return pool_every_token(pool, pool_input(pool, *resnet_trunk(self.visual, images)))[:, 0]


class Texts:
    """The text side: its weights as the file has them, and the tower, which gets them when it is first used.

    Prompts' embeddings mostly come from the disk; the tower is then never needed.
    """

    def __init__(self, tower: TextTransformer, weights: StateDict) -> None:
        """`tower` is on the meta device."""
        self._tower, self._weights = tower, weights
        self.width, self.embedding = tower.text_projection.shape
        self.context_length, self.vocabulary = len(tower.positional_embedding), len(tower.token_embedding.weight)
        self.blocks = len(tower.transformer.resblocks)

    def tower(self, device: torch.device) -> TextTransformer:
        """The tower on a device, frozen."""
        if self._weights:
            fill(self._tower, self._weights)
            self._weights = {}
        return self._tower.to(device)

    def token_embeddings(self) -> Tensor:
        """(vocabulary, D) embeddings of all tokens, without the tower around them."""
        return self._weights.get("token_embedding.weight", self._tower.token_embedding.weight)

    def known_tokens(self) -> Tensor:
        """(vocabulary,) bool: tokens whose embedding is not exactly zero."""
        return self.token_embeddings().any(dim=1)


def fill(module: nn.Module, weights: StateDict) -> None:
    """Give a module on the meta device its weights, in float32 and without gradients; the shapes are known to fit."""
    types = {key: value.dtype for key, value in module.state_dict().items()}
    module.load_state_dict({key: value.to(types[key]).contiguous() for key, value in weights.items()}, assign=True)
    module.eval().requires_grad_(False)


def towers(vision: ImageSizes, text: TextSizes, activation: str) -> tuple[CLIP, TextTransformer]:
    """Both towers of these sizes on the meta device. Raises ValueError for sizes that no CLIP has."""
    depths = vision.layers if isinstance(vision, ResNetSizes) else (vision.blocks.layers,)
    if max(*depths, text.blocks.layers) > MAX_BLOCKS or text.context > MAX_CONTEXT:
        raise ValueError("too many blocks or tokens")
    with torch.device("meta"):
        return CLIP(vision, activation), TextTransformer(text, activation)


def holds_resnet(state: StateDict) -> bool:
    """Whether a CLIP's weights are those of a model with a ResNet."""
    return "visual.layer1.0.conv1.weight" in state or "visual.layer1.0.bn1.weight" in state


def sizes_of_weights(state: StateDict, heads: tuple[int, int] | None = None) -> tuple[ImageSizes, TextSizes]:
    """The sizes of the CLIP whose weights a state dict holds.

    heads  of the image tower and of the text tower, which weights do not tell; None: as wide as in every known CLIP

    Raises KeyError for a weight that is missing, HeadsError for a width that the heads do not divide, and others for
    shapes that make no sense.
    """
    embedding = state["text_projection"].shape[1]
    context, text_width = state["positional_embedding"].shape
    text_heads = heads[1] if heads else text_width // 64
    blocks = _blocks_of(state, "transformer", text_width, text_heads)
    text = TextSizes(blocks, context, len(state["token_embedding.weight"]), embedding)
    if holds_resnet(state):
        width, positions = len(state["visual.layer1.0.conv1.weight"]), state["visual.attnpool.positional_embedding"]
        starts = [f"visual.{stage}." for stage in STAGES]
        layers = [sum(key.startswith(start) and key.endswith(".conv1.weight") for key in state) for start in starts]
        return ResNetSizes(tuple(layers), width, width * 32 // 64, _side_of(positions), embedding), text
    width, _, patch, _ = state["visual.conv1.weight"].shape
    image_heads = heads[0] if heads else width // HEAD_WIDTHS.get(width, 64)
    blocks = _blocks_of(state, "visual.transformer", width, image_heads)
    side = _side_of(state["visual.positional_embedding"])
    return VitSizes(blocks, patch, side, state["visual.proj"].shape[1]), text


def _side_of(positions: Tensor) -> int:
    return round((len(positions) - 1) ** 0.5)


def _blocks_of(state: StateDict, tower: str, width: int, heads: int) -> BlockSizes:
    count = sum(key.startswith(f"{tower}.resblocks.") and key.endswith(".attn.in_proj_weight") for key in state)
    first = f"{tower}.resblocks.0."
    inner, scaled = len(state[f"{first}mlp.c_fc.weight"]), f"{first}ls_1.gamma" in state
    if heads < 1 or width % heads:
        raise HeadsError(f"the number of heads of {tower}, {width} wide, is not known; pass a folder with its config")
    return BlockSizes(count, width, heads, inner, scaled)


def sizes_of_config(config: Mapping[str, Any]) -> tuple[ImageSizes, TextSizes] | None:
    """The sizes in one of open_clip's model configurations; None where a tower is not CLIP's own."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not {"layers", "width"} <= set(vision) <= VISION_KEYS or not set(text) <= TEXT_KEYS:
        return None
    embedding, width = config["embed_dim"], vision["width"]
    text_blocks = BlockSizes(
        text["layers"], text["width"], text["heads"], int(text["width"] * text.get("mlp_ratio", 4))
    )
    texts = TextSizes(text_blocks, text["context_length"], text["vocab_size"], embedding)
    if isinstance(vision["layers"], list):
        side = vision["image_size"] // STRIDE
        return ResNetSizes(tuple(vision["layers"]), width, width * 32 // 64, side, embedding), texts
    heads, inner = width // vision.get("head_width", 64), int(width * vision.get("mlp_ratio", 4))
    blocks = BlockSizes(vision["layers"], width, heads, inner, "ls_init_value" in vision)
    return VitSizes(blocks, vision["patch_size"], vision["image_size"] // vision["patch_size"], embedding), texts
