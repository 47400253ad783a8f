"""SAM 3 (Carion et al., 2025) in a CLIP's place: texts to text features, an image and a text to one map.

The network of transformers (`Sam3Model`) finds whatever a short text names. Its text features are a sequence of tokens,
where a CLIP's are one embedding; here a text's row holds all of them, its mask, and a 1, by which the scale is found
again behind what brings embeddings to unit length.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clip.load import Clip
from clip.tokenizer import SimpleTokenizer

TOKENS = 32  # of a text, start and end among them
PADDING = SimpleTokenizer.eot_token_id


class ConceptTexts:
    """The text side, with what callers ask of a CLIP's."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.context_length, self.vocabulary = TOKENS, SimpleTokenizer.vocab_size
        self.width = int(network.text_projection.out_features)
        self.embedding = TOKENS * (self.width + 1) + 1

    def known_tokens(self) -> Tensor:
        """(vocabulary,) bool."""
        return torch.ones(self.vocabulary, dtype=torch.bool)

    def tower(self, device: torch.device) -> Any:
        """What makes rows (P, E) of token ids (P, TOKENS)."""
        return self.rows

    def rows(self, tokens: Tensor, blocks: int | None = None) -> Tensor:
        length = (tokens == SimpleTokenizer.eot_token_id).int().argmax(dim=1, keepdim=True) + 1
        mask = torch.arange(TOKENS, device=tokens.device) < length
        found = self.network.get_text_features(
            input_ids=torch.where(mask, tokens, PADDING), attention_mask=mask.long(), return_dict=True
        )
        features = found.pooler_output.flatten(1)
        return torch.cat([features, mask.to(features), torch.ones_like(features[:, :1])], dim=1)


@dataclass(frozen=True)
class ConceptClip(Clip):
    """A frozen SAM 3 in a CLIP's place: `model` is the network, `texts` are ConceptTexts."""

    @property
    def _backbone(self) -> Any:
        config: Any = self.model.config
        return config.vision_config.backbone_config

    @property
    def patch_size(self) -> int:
        return int(self._backbone.patch_size)

    @property
    def side(self) -> int:
        """Of the squares that it sees, in pixels."""
        return int(self._backbone.image_size)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def describe(self) -> str:
        """One line for people."""
        return f"{self.name} (SAM 3, squares of {self.side}, weights {self.fingerprint})"


def presence_and_maps(clip: ConceptClip, images: Tensor, rows: Tensor, at_once: int) -> tuple[Tensor, Tensor]:
    """How probable it is that an image shows each text (B, Q), and at which places (B, Q, h, w), in [0, 1].

    images  (B, 3, side, side), normalised by 0.5 and 0.5
    rows    (Q, E) of ConceptTexts, of any length
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    network: Any = clip.model
    seen = network.get_vision_features(pixel_values=images)
    rows = rows / rows[:, -1:]
    masks = rows[:, -1 - TOKENS : -1].round().long()
    features = rows[:, : -1 - TOKENS].unflatten(1, (TOKENS, -1))
    there, maps = [], []
    for image in range(len(images)):
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            found = network(
                vision_embeds=_repeated(seen, image, len(rows[part])),
                text_embeds=BaseModelOutputWithPooling(pooler_output=features[part]),
                attention_mask=masks[part],
            )
            there.append(found.presence_logits.float().sigmoid().flatten())
            maps.append(found.semantic_seg[:, 0].float().sigmoid())
    shape = (len(images), len(rows))
    return torch.cat(there).view(shape), torch.cat(maps).unflatten(0, shape)


def _repeated(seen: Any, image: int, count: int) -> Any:
    """What the image tower gives, for one image as often as there are texts."""

    def again(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[image : image + 1].expand(count, *value.shape[1:])
        return tuple(again(one) for one in value) if isinstance(value, tuple | list) else value

    return type(seen)(**{key: again(value) for key, value in seen.items()})
