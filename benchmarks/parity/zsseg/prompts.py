"""Texts and learned prompts: embeddings, their layout, the training samples and steps."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.parity.parts import Distances, Part, Parts, Place, Row, Unequal
from clip.learned_prompts import PREFIX, LearnedPrompts, encode_frames, frames, read_learned_prompts
from clip.load import Clip, load_clip
from clip.templates import IMAGENET80, SINGLE, VILD14, Words
from clip.text_cache import cached_words
from clip.tokenizer import SimpleTokenizer

FEATURES = 6e-7  # the golden files' own spread
TEMPLATES = {"single": SINGLE, "vild14": VILD14, "imagenet80": IMAGENET80}


def names_of(place: Place) -> list[str]:
    """The classes, then the other names."""
    classes = json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))
    return [*classes["names"], *classes["extra_names"]]


def texts(place: Place) -> Iterator[Row]:
    clip = load_clip(str(place.clip))
    wanted, names = np.load(place.folder / "text.npz"), names_of(place)
    groups = [(name,) for name in names]
    ours = {name: cached_words(clip, Words(groups, templates)).numpy() for name, templates in TEMPLATES.items()}
    learned = read_learned_prompts(place.folder / "prompt/prompt_checkpoint.pth", clip)
    ours["learned16"] = cached_words(replace(clip, learned=learned), Words(groups, ())).numpy()
    classes = len(json.loads((place.folder / "classes.json").read_text(encoding="utf-8"))["names"])
    nothing = torch.nn.functional.normalize(torch.from_numpy(wanted["non_object_raw"]), dim=1).numpy()
    ours["vild14_with_non_object"] = np.concatenate([ours["vild14"][:classes], nothing])
    for name, embeddings in ours.items():
        distances = Distances()
        distances.add(embeddings, wanted[name])
        yield distances.row(f"text embeddings, {name}", FEATURES)


def _around(clip: Clip, names: list[str], prefix: np.ndarray, suffix: np.ndarray) -> tuple[np.ndarray, ...]:
    """Embeddings to the end of the context (N, T, D), ends (N,), unit features (N, E)."""
    learned = LearnedPrompts.of(torch.from_numpy(prefix), torch.from_numpy(suffix))
    parts = frames(clip, names, len(prefix), len(suffix))
    filled = parts.filled(learned.prefix, learned.suffix)
    missing = clip.texts.context_length - filled.shape[1]
    padding = clip.texts.token_embeddings()[:1].expand(len(filled), missing, -1)
    features = encode_frames(clip, parts, learned.prefix, learned.suffix)
    embeddings = torch.cat([filled, padding.float()], dim=1)
    return embeddings.numpy(), parts.ends.numpy(), torch.nn.functional.normalize(features, dim=1).numpy()


@torch.no_grad()
def layout(place: Place) -> Iterator[Row]:
    clip, tokenizer = load_clip(str(place.clip)), SimpleTokenizer()
    wanted, context = np.load(place.folder / "prompt/layout.npz"), np.load(place.folder / "prompt/context.npz")
    checkpoint = read_learned_prompts(place.folder / "prompt/prompt_checkpoint.pth", clip)
    vectors = Distances()
    vectors.add(checkpoint.prefix.numpy(), context[PREFIX])
    yield vectors.row("learned vectors of the checkpoint", 0)
    names, tokens = [str(name) for name in wanted["names"]], Unequal()
    for name, row, length in zip(names, wanted["name_tokens"], wanted["name_lengths_with_sot_eot"]):
        ours = [tokenizer.sot_token_id, *tokenizer.encode(name), tokenizer.eot_token_id]
        tokens.add(ours, row[:length])
    yield tokens.row("tokens of the names", 0)
    none = np.zeros((0, clip.texts.width), np.float32)
    shapes = {
        "16_0": (context[PREFIX], none),
        "5_3": (context["prefix_prompt_5"], context["suffix_prompt_3"]),
    }
    for shape, (prefix, suffix) in shapes.items():
        embeddings, ends, features = _around(clip, names, prefix, suffix)
        distances, places, units = Distances(), Unequal(), Distances()
        distances.add(embeddings, wanted[f"embeddings_{shape}"])
        places.add(ends, wanted[f"eot_index_{shape}"])
        units.add(features, wanted[f"features_{shape}"])
        title = f"learned prompts of shape ({shape.replace('_', ', ')})"
        yield distances.row(f"{title}: embeddings before positions", FEATURES)
        yield places.row(f"{title}: places of the end", 0)
        yield units.row(f"{title}: features", FEATURES)


PARTS: Parts = {
    "text": Part(("text.npz", "classes.json"), texts),
    "prompt layout": Part(("layout.npz", "context.npz", "prompt_checkpoint.pth"), layout),
}
