"""The model that `maskclip.load` returns."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.load import Clip
from clip.resnet import is_resnet, pool_every_token, pool_input, resnet_trunk
from clip.text import encode_tokens
from clip.vision import class_token_features, vision_trunk
from common.errors import UserError
from pipeline.steps.dense_features import last_block, value_features, value_features_resnet


class MaskClip(torch.nn.Module):
    """CLIP that scores every patch for every text, as the pip package does it (`--method maskclip-v`).

    Frozen and in float32. Any input whose sides CLIP's patches fit into is taken, not squares alone.
    """

    text_embeddings: Tensor | None

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip
        self.network = clip.model  # so that `.to(device)` moves it; the text tower follows when it is used
        self.register_buffer("text_embeddings", None, persistent=False)
        self.eval()

    def initialize_text_embeddings(self, embeddings: Tensor) -> None:
        """Keep the (C, E) unit embeddings of the classes for `forward`."""
        self.text_embeddings = embeddings.to(self.clip.device, torch.float32)

    def forward(self, image: Tensor, texts: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Logits (B, C, h, w) on the patch grid; scale them up bilinearly (align_corners=False) for pixels.

        image  (B, 3, H, W), as `preprocess` makes it
        texts  token ids in place of the embeddings kept: (C, context), or C tensors (t, context) of several prompts
        """
        embeddings = self.text_embeddings
        if texts is not None:
            groups = [tokens.reshape(-1, tokens.shape[-1]) for tokens in texts]  # each (t, context)
            embeddings = F.normalize(torch.stack([self.encode_text(group).mean(dim=0) for group in groups]), dim=-1)
        if embeddings is None:
            raise UserError("model(image): no texts; call initialize_text_embeddings first, or pass token ids")
        _, patches, grid = self._features(image)
        logits = self.clip.logit_scale * patches @ embeddings.T  # (B, N, C)
        return logits.transpose(1, 2).unflatten(2, grid)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image features (B, E), of unit length, and patch features (B, h*w, E), which are not."""
        whole, patches, _ = self._features(image)
        return F.normalize(whole, dim=-1), patches

    def encode_text(self, text: Tensor, normalize: bool = True, feature_layer: int | None = None) -> Tensor:
        """Token ids (T, context) to (T, E) float32.

        feature_layer  index of the last text block that is run, from the end where negative; None and 0, as in the
                       package: all of them
        """
        features = encode_tokens(self.clip, text, self.text_blocks(feature_layer))
        return F.normalize(features, dim=-1) if normalize else features

    def text_blocks(self, feature_layer: int | None) -> int | None:
        """How many text blocks a feature layer asks for; None: all. Raises UserError for one that is not there."""
        count = self.clip.texts.blocks
        if not feature_layer or feature_layer in (-1, count - 1):
            return None
        if not -count <= feature_layer < count:
            raise UserError(f"feature_layer {feature_layer}: this CLIP's text tower has {count} blocks")
        return feature_layer % count + 1

    @torch.no_grad()
    def _features(self, image: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """(B, E) of the whole image, (B, N, E) of its patches, (h, w)."""
        image, visual = image.to(self.clip.device, torch.float32), self.clip.visual
        if is_resnet(visual):
            cells, grid = resnet_trunk(visual, image)
            whole = pool_every_token(visual.attnpool, pool_input(visual.attnpool, cells, grid))[:, 0]
            return whole, value_features_resnet(visual, cells, grid), grid
        trunk = vision_trunk(visual, image, attention_blocks=0, positions="bicubic")
        output, _ = last_block(visual, trunk.last_input)
        patches = value_features(visual, trunk.last_input, output)
        return class_token_features(visual, output), patches, trunk.grid
