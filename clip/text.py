"""Prompts to text embeddings.

All prompts of a call are encoded in one batch; a class with several prompts gets the mean of their unit embeddings.
"""

from collections.abc import Sequence
from functools import partial

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor

from clip.load import Clip
from common.errors import UserError

CHUNK = 512  # prompts a forward pass; bounds the memory of a list with thousands of classes


def fill_template(template: str, names: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put every name into the template at `{}`: K lists of names to K lists of prompts."""
    if "{}" not in template:
        raise UserError(f"template {template!r}: expected {{}} where the class name goes")
    return [[template.replace("{}", name) for name in group] for group in names]


def encode_prompts(clip: Clip, prompts: Sequence[Sequence[str]], blocks: int | None = None) -> Tensor:
    """K groups of prompts to (K, E) float32 unit embeddings on CLIP's device.

    blocks  as in `encode_tokens`

    Each prompt is normalised, the prompts of a group are averaged, the mean is normalised again.
    Raises UserError for an empty group and for a prompt longer than CLIP's context.
    """
    for index, group in enumerate(prompts):
        if not group:
            raise UserError(f"class {index} has no prompt; give it at least one")
    if not prompts:
        return torch.zeros(0, clip.model.text_projection.shape[1], device=clip.device)
    tokens = tokenize(clip, [prompt for group in prompts for prompt in group])
    embeddings = F.normalize(encode_tokens(clip, tokens, blocks), dim=-1)
    groups = embeddings.split([len(group) for group in prompts])
    return F.normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)


def tokenize(clip: Clip, prompts: Sequence[str]) -> Tensor:
    """Prompts to the (P, context) token ids of a model's context."""
    return token_ids(prompts, clip.model.context_length)


def token_ids(prompts: Sequence[str], context: int) -> Tensor:
    """Prompts to (P, context) int64 token ids: start, the words, end, zeros.

    Raises UserError for a prompt that does not fit, where OpenAI's tokenizer would cut it short.
    """
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    room = context - 2  # start and end of text
    for prompt in prompts:
        length = len(tokenizer.encode(tokenizer.clean_fn(prompt)))
        if length > room:
            raise UserError(f"prompt {prompt[:60]!r}...: {length} tokens, but this CLIP takes {room}; shorten it")
    return tokenizer(list(prompts))


@torch.no_grad()
def encode_tokens(clip: Clip, tokens: Tensor, blocks: int | None = None) -> Tensor:
    """(P, context) token ids to (P, E) float32, not normalised.

    blocks  only this many first blocks of the text tower are run, then its layer norm and projection; None: all
    """
    encode = clip.model.encode_text if blocks is None else partial(_after_blocks, clip.model, blocks)
    return torch.cat([encode(chunk.to(clip.device)) for chunk in tokens.split(CHUNK)]).float()


def _after_blocks(model: CLIP, blocks: int, tokens: Tensor) -> Tensor:
    """open_clip's `encode_text` with the first `blocks` blocks only."""
    states = model.token_embedding(tokens) + model.positional_embedding
    for block in model.transformer.resblocks[:blocks]:
        states = block(states, attn_mask=model.attn_mask)
    ends = text_global_pool(model.ln_final(states), tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
    return ends @ model.text_projection


def unknown_words(clip: Clip, prompts: Sequence[str]) -> list[str]:
    """Words of the prompts that the model never saw: those with a token whose embedding is exactly zero.

    A CLIP trained on a small vocabulary, such as the toy world's, holds zeros for all other tokens, so that two
    unknown words would look alike to it. Pretrained CLIPs have no such rows.
    """
    rows = clip.model.token_embedding.weight.abs().amax(dim=1)
    tokenizer = open_clip.SimpleTokenizer(context_length=clip.model.context_length)
    words = {word for prompt in prompts for word in tokenizer.pat.findall(tokenizer.clean_fn(prompt))}
    return sorted(word for word in words if any(rows[token] == 0 for token in tokenizer.encode(word)))
