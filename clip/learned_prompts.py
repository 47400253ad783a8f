"""Learned prompts (CoOp: Zhou et al., IJCV 2022): vectors that stand where a template has its words.

A prompt is start, prefix vectors, the class name, suffix vectors, ".", end. The vectors are the same for all names; a
file holds them under the names that zsseg.baseline gives them.
Letters: N names, T tokens, P prefix and S suffix vectors, D text width, E embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clip.archive import read_tensors
from clip.text import CHUNK, check_groups, mean_of_groups
from clip.tokenizer import SimpleTokenizer
from common.errors import UserError
from common.files import atomic_write
from common.version import VERSION

if TYPE_CHECKING:
    from clip.load import Clip

KEY = "prompts"  # of the header's metadata
FORMAT = 1
EXPECTED = "expected a file of scripts/learn_prompts.py, or a checkpoint of zsseg.baseline with a prompt learner"
PREFIX, SUFFIX, START = "prefix_prompt", "suffix_prompt", "start_signal"
LEARNER = "prompt_learner"  # in the keys of a checkpoint
SAME = 1e-3  # share of the largest value by which the start token may differ: float16 in one of the files


@dataclass(frozen=True)
class LearnedPrompts:
    """Vectors to put before and after a name: prefix (P, D) and suffix (S, D) float32.

    fingerprint  16 hex digits that name the vectors, for "made by" records
    """

    prefix: Tensor
    suffix: Tensor
    fingerprint: str

    @classmethod
    def of(cls, prefix: Tensor, suffix: Tensor) -> LearnedPrompts:
        """The vectors with their fingerprint."""
        prefix, suffix = (vectors.detach().cpu().float().contiguous() for vectors in (prefix, suffix))
        digest = hashlib.sha256(repr((tuple(prefix.shape), tuple(suffix.shape))).encode())
        for vectors in (prefix, suffix):
            digest.update(vectors.numpy().tobytes())
        return cls(prefix, suffix, digest.hexdigest()[:16])

    def describe(self) -> str:
        """A few words for people."""
        after = f" and {len(self.suffix)} after" if len(self.suffix) else ""
        return f"{len(self.prefix)} learned vectors before{after} the names, {self.fingerprint}"


@dataclass(frozen=True)
class Frames:
    """N names as tokens, with room for P vectors before and S after each.

    embeddings  (N, T, D) of the tokens; T reaches to the longest one's end, what would follow is not looked at
    after       (N, S) places of the vectors after the name
    ends        (N,) places of the end token
    prefix      P
    """

    embeddings: Tensor
    after: Tensor
    ends: Tensor
    prefix: int

    def filled(self, prefix: Tensor, suffix: Tensor) -> Tensor:
        """(N, T, D) embeddings with the vectors in their places; gradients flow to them."""
        filled = self.embeddings.clone()
        filled[:, 1 : 1 + self.prefix] = prefix
        rows = torch.arange(len(filled), device=filled.device)[:, None]
        filled[rows, self.after] = suffix
        return filled


def frames(clip: Clip, names: Sequence[str], prefix: int, suffix: int) -> Frames:
    """Tokenise names and leave room for so many vectors around each. Raises UserError for a name that is too long."""
    tokenizer, room = SimpleTokenizer(), clip.texts.context_length - prefix - suffix - 3
    words = [tokenizer.encode(name.strip()) for name in names]
    for name, ids in zip(names, words):
        if len(ids) > room:
            taken = f"{prefix + suffix} learned vectors leave room for {max(0, room)}"
            raise UserError(f"class name {name[:60]!r}: {len(ids)} tokens, but {taken}; shorten it")
    (dot,) = tokenizer.encode(".")
    close = [dot, tokenizer.eot_token_id]
    rows = [[tokenizer.sot_token_id, *[0] * prefix, *ids, *[0] * suffix, *close] for ids in words]
    tokens = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.int64)
    for row, ids in zip(tokens, rows):
        row[: len(ids)] = torch.tensor(ids)
    first = torch.tensor([1 + prefix + len(ids) for ids in words], dtype=torch.int64)
    ends = first + suffix + 1
    embeddings = clip.texts.tower(clip.device).token_embedding(tokens.to(clip.device))
    after = first[:, None] + torch.arange(suffix)
    return Frames(embeddings, after.to(clip.device), ends.to(clip.device), prefix)


def encode_frames(clip: Clip, frames: Frames, prefix: Tensor, suffix: Tensor) -> Tensor:
    """The names inside these vectors: (N, E) float32, not normalised. Gradients flow to the vectors."""
    return clip.texts.tower(clip.device).encode(frames.filled(prefix, suffix), frames.ends).float()


@torch.no_grad()
def encode_names(clip: Clip, groups: Sequence[Sequence[str]], learned: LearnedPrompts) -> Tensor:
    """K groups of names to (K, E) float32 unit embeddings, as `encode_prompts` makes them of sentences."""
    check_groups(groups)
    if not groups:
        return torch.zeros(0, clip.texts.embedding, device=clip.device)
    names = [name for group in groups for name in group]
    prefix, suffix = learned.prefix.to(clip.device), learned.suffix.to(clip.device)
    parts = []
    for start in range(0, len(names), CHUNK):
        chunk = frames(clip, names[start : start + CHUNK], len(prefix), len(suffix))
        parts.append(encode_frames(clip, chunk, prefix, suffix))
    return mean_of_groups(torch.cat(parts), groups)


def write_learned_prompts(path: Path, clip: Clip, prefix: Tensor, suffix: Tensor, about: Mapping[str, Any]) -> None:
    """Write the vectors as safetensors, whole or not at all.

    about  what else is known of them, in values as JSON has them
    """
    from safetensors.torch import save

    learned = LearnedPrompts.of(prefix, suffix)
    sizes = {"text_width": clip.texts.width, "prefix": len(learned.prefix), "suffix": len(learned.suffix)}
    metadata = {KEY: json.dumps({"format": FORMAT, "code": VERSION, **sizes, **about}, sort_keys=True)}
    tensors = {name: vectors for name, vectors in ((PREFIX, learned.prefix), (SUFFIX, learned.suffix)) if len(vectors)}
    with atomic_write(path) as stream:
        stream.write(save({**tensors, START: _start(clip)}, metadata=metadata))


def read_learned_prompts(path: Path, clip: Clip) -> LearnedPrompts:
    """The vectors of a file, which must be of this CLIP.

    A checkpoint of zsseg.baseline is a dictionary under `model`; those of its tensors count whose names hold
    `prompt_learner`. Where two learners are in it, the later one is taken, which is that of the regions.
    Raises UserError, naming the file, for one that is missing or holds no such vectors, and for vectors that were
    learned for another CLIP.
    """
    tensors = _learner(read_tensors(path, EXPECTED).state)
    if PREFIX not in tensors and SUFFIX not in tensors:
        raise UserError(f"{path}: holds no learned prompts (no {PREFIX}); {EXPECTED}")
    width = clip.texts.width
    vectors = []
    for name in (PREFIX, SUFFIX):
        value = tensors.get(name, torch.zeros(0, width))
        if value.ndim != 2 or not value.is_floating_point() or not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} is no matrix of finite numbers; {EXPECTED}")
        if value.shape[1] != width:
            raise UserError(
                f"{path}: prompts of a text width of {value.shape[1]}, but the text tower of {clip.name} has {width}; "
                "pass the CLIP that they were learned with"
            )
        vectors.append(value)
    start = _start(clip)
    if START in tensors and not _alike(tensors[START], start):
        raise UserError(
            f"{path}: learned with another CLIP than {clip.name}, although both have a text width of {width}; "
            "pass the CLIP that they were learned with"
        )
    return LearnedPrompts.of(*vectors)


def _learner(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names of our files; those of a checkpoint have two names of modules before them."""
    if any(LEARNER in name for name in tensors):
        return {name.split(".", 2)[-1]: value for name, value in tensors.items() if LEARNER in name}
    return dict(tensors)


def _start(clip: Clip) -> Tensor:
    """The embedding of the start token (1, D), which tells one CLIP from another."""
    return clip.texts.token_embeddings()[[SimpleTokenizer.sot_token_id]].detach().cpu().float().contiguous()


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.numel() != other.numel():
        return False
    return bool((one.float().flatten() - other.flatten()).abs().max() <= SAME * other.abs().max())
