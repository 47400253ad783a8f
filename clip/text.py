"""Prompts to text embeddings.

All prompts of a call are encoded in one batch; a class with several prompts gets the mean of their unit embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.tokenizer import SimpleTokenizer
from common.errors import UserError

if TYPE_CHECKING:
    from clip.load import Clip

CHUNK = 512  # prompts a forward pass; bounds the memory of a list with thousands of classes


def fill_template(template: str, names: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put every name into the template at `{}`: K lists of names to K lists of prompts."""
    if "{}" not in template:
        raise UserError(f"template {template!r}: expected {{}} where the class name goes")
    return [[template.replace("{}", name) for name in group] for group in names]


def encode_prompts(
    clip: Clip, prompts: Sequence[Sequence[str]], blocks: int | None = None, unit: bool = True
) -> Tensor:
    """K groups of prompts to (K, E) float32 unit embeddings on CLIP's device.

    blocks  as in `encode_tokens`
    unit    as in `mean_of_groups`
    Raises UserError for an empty group and for a prompt longer than CLIP's context.
    """
    check_groups(prompts)
    if not prompts:
        return torch.zeros(0, clip.texts.embedding, device=clip.device)
    tokens = tokenize(clip, [prompt for group in prompts for prompt in group])
    return mean_of_groups(encode_tokens(clip, tokens, blocks), prompts, unit)


def check_groups(groups: Sequence[Sequence[str]]) -> None:
    """Raise UserError for a group without texts."""
    for index, group in enumerate(groups):
        if not group:
            raise UserError(f"class {index} has no prompt; give it at least one")


def mean_of_groups(embeddings: Tensor, groups: Sequence[Sequence[str]], unit: bool = True) -> Tensor:
    """(P, E) embeddings, one a text of K groups, to the groups' means (K, E) of unit length.

    unit  whether the embeddings are brought to unit length first, which is the rule of all systems but SegCLIP
    """
    parts = (F.normalize(embeddings, dim=-1) if unit else embeddings).split([len(group) for group in groups])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


def tokenize(clip: Clip, prompts: Sequence[str]) -> Tensor:
    """Prompts to the (P, context) token ids of a model's context. Raises UserError for another vocabulary."""
    if clip.texts.vocabulary < SimpleTokenizer.vocab_size:
        size = SimpleTokenizer.vocab_size
        raise UserError(f"{clip.name}: a vocabulary of {clip.texts.vocabulary} tokens; CLIP's tokenizer needs {size}")
    return token_ids(prompts, clip.texts.context_length)


def token_ids(prompts: Sequence[str], context: int) -> Tensor:
    """Prompts to (P, context) int64 token ids: start, the words, end, zeros.

    Raises UserError for a prompt that does not fit, where OpenAI's tokenizer would cut it short.
    """
    tokenizer = SimpleTokenizer()
    most = context - 2  # without start and end of text
    result = torch.zeros(len(prompts), context, dtype=torch.int64)
    for row, prompt in zip(result, prompts):
        words = tokenizer.encode(prompt)
        if len(words) > most:
            raise UserError(f"prompt {prompt[:60]!r}...: {len(words)} tokens, but this CLIP takes {most}; shorten it")
        row[: len(words) + 2] = torch.tensor([tokenizer.sot_token_id, *words, tokenizer.eot_token_id])
    return result


@torch.no_grad()
def encode_tokens(clip: Clip, tokens: Tensor, blocks: int | None = None) -> Tensor:
    """(P, context) token ids to (P, E) float32, not normalised.

    blocks  only this many first blocks of the text tower are run, then its layer norm and projection; None: all
    """
    tower = clip.texts.tower(clip.device)
    return torch.cat([tower(chunk.to(clip.device), blocks) for chunk in tokens.split(CHUNK)]).float()


def unknown_words(clip: Clip, prompts: Sequence[str]) -> list[str]:
    """Words of the prompts that the model never saw: those with a token whose embedding is exactly zero.

    A CLIP trained on a small vocabulary, such as the toy world's, holds zeros for all other tokens, so that two
    unknown words would look alike to it. Pretrained CLIPs have no such rows, and nothing is tokenised for them.
    """
    known = clip.texts.known_tokens()
    if known.all():
        return []
    tokenizer = SimpleTokenizer()
    words = {word for prompt in prompts for word in tokenizer.words(prompt)}
    return sorted(word for word in words if not all(known[token] for token in tokenizer.encode(word)))
