"""Text embeddings kept on disk by content, so that a class set is encoded once.

Kept in $XDG_CACHE_HOME/clip-pseudo-masks (~/.cache/clip-pseudo-masks when that is not set). It is a cache and nothing
more: a folder that cannot be written, a damaged or a foreign file only cost the encoding.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip.learned_prompts import encode_names
from clip.load import Clip
from clip.templates import Words
from clip.text import encode_prompts
from common.errors import StopRun, UserError
from common.files import atomic_write

FOLDER = "clip-pseudo-masks"
FORMAT = 1


def cached_words(clip: Clip, words: Words) -> Tensor:
    """Names to (K, E) float32 unit embeddings: inside the CLIP's learned prompts, or else in their templates.

    One for each list of names, or for each name where they are separate. All methods get their text embeddings here.
    """
    words = words.one_by_one()
    learned = clip.learned
    if learned is None:
        return cached_prompts(clip, words.sentences(), unit=words.unit)
    path = cache_file(clip, words.names, learned=learned.fingerprint)
    return _cached(clip, path, len(words.names), lambda: encode_names(clip, words.names, learned))


def cached_prompts(
    clip: Clip, prompts: Sequence[Sequence[str]], blocks: int | None = None, unit: bool = True
) -> Tensor:
    """`encode_prompts`, (K, E) float32 unit embeddings on CLIP's device, read from the disk where they are there."""
    path = cache_file(clip, prompts, blocks, unit=unit)
    return _cached(clip, path, len(prompts), lambda: encode_prompts(clip, prompts, blocks, unit))


def _cached(clip: Clip, path: Path | None, count: int, encode: Callable[[], Tensor]) -> Tensor:
    cached = _read(path, (count, clip.texts.embedding)) if path else None
    if cached is not None:
        return torch.from_numpy(cached).to(clip.device)
    embeddings = encode()
    if path:
        with suppress(UserError, StopRun), atomic_write(path) as stream:
            np.savez(stream, embeddings=embeddings.cpu().numpy())
    return embeddings


def cache_file(
    clip: Clip, prompts: Sequence[Sequence[str]], blocks: int | None = None, learned: str = "", unit: bool = True
) -> Path | None:
    """Where the embeddings go: named by all that they depend on. None where there is no home directory.

    learned  names the learned prompts that the names are in
    """
    machine = [clip.device.type, torch.__version__, torch.get_num_threads()]
    depends_on = [FORMAT, clip.fingerprint, clip.activation, *machine, [list(group) for group in prompts]]
    depends_on += [] if blocks is None else [blocks]
    depends_on += [{"learned": learned}] if learned else []
    depends_on += [] if unit else ["mean of any lengths"]
    name = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]
    with suppress(RuntimeError):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / FOLDER / f"{name}.npz"
    return None


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The embeddings of a file, or None unless it holds finite float32 ones of that shape."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            embeddings = arrays["embeddings"]
    except Exception:  # whatever is wrong with a cache file, encoding again is the remedy
        return None
    fits = embeddings.shape == shape and embeddings.dtype == np.float32 and np.isfinite(embeddings).all()
    return embeddings if fits else None
