"""Where in a file a CLIP lies and what its weights are called there: every form to OpenAI's names.

Trainers put a model's state dict into a dictionary (`state_dict`, `model`) and a word before every name: `module.`
(DistributedDataParallel), `_orig_mod.` (torch.compile), `model.` (Lightning). Whatever stands before the two weights
that every CLIP has is taken for such a word.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clip.other_models import what_it_is
from common.errors import UserError, in_short

StateDict = dict[str, Tensor]

EXPECTED = "expected an OpenAI, open_clip or Hugging Face CLIP (docs/weights.md)"
DEEPEST = 5  # dictionaries in dictionaries
WRAPPERS = ("module.", "_orig_mod.")
AVERAGED = "ema"  # in the name of weights that a trainer averaged

# Hugging Face's names and OpenAI's; behind a dot the rest of the name follows.
HUGGING_FACE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.position_embedding_res": "positional_embedding_res",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # sic
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "visual_projection.weight": "visual.proj",
}
IN_BLOCKS = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.out_proj.": "attn.out_proj.",
    "self_attn.q_proj.": "attn.in_proj_",  # rows of one matrix, with those of k and v
}
TRANSPOSED = ("text_projection", "visual.proj")  # linear layers in Hugging Face's
BUFFERS = ("embeddings.position_ids", "logit_bias")  # 0, 1, 2...; a number that no softmax sees
KEPT_POSITIONS = 20  # Long-CLIP keeps the first 20 text positions (Zhang et al., 2024, section 3.2)


@dataclass(frozen=True)
class ClipState:
    """A CLIP's weights in OpenAI's names.

    name_in_file  from our name of a weight to what the file calls it
    hugging_face  whether the file has Hugging Face's names
    long_text     whether the text positions were in two parts, as Long-CLIP's are
    notes         what a person should know, a line each
    """

    state: StateDict
    name_in_file: Callable[[str], str]
    hugging_face: bool = False
    long_text: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A CLIP in a file: the dictionary that holds it, the names of the dictionaries around it, and the word before
    every name."""

    tensors: StateDict
    around: str
    word: str
    hugging_face: bool

    def __str__(self) -> str:
        return in_short(f"{self.around}{self.word}") or "the file itself"


def find_clip(content: Mapping[Any, Any], source: str) -> ClipState:
    """The CLIP in a file's content: tensors by name, and dictionaries of them; other values are left out.

    source  names the file in messages
    Raises UserError, which says what the file holds, where there is no CLIP or more than one.
    """
    levels = list(_levels(content))
    places = [place for around, tensors in levels for place in _places(around, tensors)]
    if not places:
        raise UserError(f"{source}: not the weights of a CLIP ({_what_else(levels)}); {EXPECTED}")
    place, notes = _chosen(places, source)
    words = [other.word for other in places if other.tensors is place.tensors and other.word != place.word]
    state, beside = {}, []
    for name, value in place.tensors.items():
        if any(name.startswith(word) for word in words if len(word) > len(place.word)):
            continue
        if name.startswith(place.word):
            state[name.removeprefix(place.word)] = value
        elif not any(word and name.startswith(word) for word in words):
            beside.append(name)
    other = what_it_is(state, like_clip=True)
    if not place.hugging_face and "visual.proj" in state and not any("visual.ln_pre." in name for name in state):
        other = other or "CLIPA: its image tower has no layer norm before the blocks"
    if other:
        raise UserError(f"{source}: {other}; {EXPECTED} with a ViT and CLIP's own text tower")
    for name, value in state.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_complex() or value.is_quantized:
            kind = f"{value.dtype}, {value.device}, {value.layout}"
            raise UserError(f"{source}: weight {in_short(name)} is no array of real numbers ({kind}); {EXPECTED}")
    if beside:
        more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
        notes.append(f"the CLIP is {place}*; left out: {in_short(beside[0])}{more}")
    return _converted(state, place, source, notes)


def all_tensors(content: Mapping[Any, Any]) -> StateDict:
    """The tensors of the largest dictionary in a file's content, without what wrappers put before every name."""
    tensors = max((tensors for _, tensors in _levels(content)), key=len, default={})
    while word := next((word for word in WRAPPERS if tensors and all(name.startswith(word) for name in tensors)), ""):
        tensors = {name.removeprefix(word): value for name, value in tensors.items()}
    return tensors


def _levels(content: Mapping[Any, Any], around: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    """Each dictionary of a content with tensors: what is around it, its tensors by name."""
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and torch.is_tensor(value)}
    if tensors:
        yield around, tensors
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping) and depth < DEEPEST:
            yield from _levels(value, f"{around}{name}.", depth + 1)


def _places(around: str, tensors: StateDict) -> Iterator[_Place]:
    """The CLIPs in a dictionary: each word that stands before the first weights of both towers."""
    for image, texts in (
        ("visual.conv1.weight", ("token_embedding.weight", "text.token_embedding.weight")),
        ("vision_model.embeddings.patch_embedding.weight", ("text_model.embeddings.token_embedding.weight",)),
    ):
        words = [name.removesuffix(image) for name in tensors if name.endswith(image)]
        for word in words:
            if (not word or word.endswith(".")) and any(f"{word}{text}" in tensors for text in texts):
                yield _Place(tensors, around, word, image.startswith("vision_model"))


def _what_else(levels: list[tuple[str, StateDict]]) -> str:
    """What tensors without a CLIP among them are."""
    names = sorted(f"{around}{name}" for around, tensors in levels for name in tensors)
    if model := what_it_is(names):
        return model
    image = any(name.endswith(("visual.conv1.weight", "embeddings.patch_embedding.weight")) for name in names)
    text = any(name.endswith("token_embedding.weight") for name in names)
    if image or text:
        return f"{'an image' if image else 'a text'} tower alone, of {in_short(names[0])}"
    return f"found {in_short(', '.join(names[:2]))}" if names else "no tensors"


def _chosen(places: list[_Place], source: str) -> tuple[_Place, list[str]]:
    """The CLIP that is meant: the only one, or the averaged one. Raises UserError for others."""
    first = places[0]
    if len(places) == 1:
        return first, []
    averaged = [place for place in places if AVERAGED in str(place).lower()]
    listed = ", ".join(map(str, places[:4]))
    if len(averaged) != 1:
        raise UserError(
            f"{source}: holds {len(places)} CLIPs ({listed}); save the one that is meant in a file of its own"
        )
    return averaged[0], [f"holds {len(places)} CLIPs ({listed}); the averaged weights, {averaged[0]}, are taken"]


def _converted(state: StateDict, place: _Place, source: str, notes: list[str]) -> ClipState:
    """The state in OpenAI's names, with Long-CLIP's two text positions in one."""
    state = {name: value for name, value in state.items() if not name.endswith(BUFFERS)}
    custom_text = "text.token_embedding.weight" in state
    name_in_file = partial(_name_in_file, place, custom_text)
    if place.hugging_face:
        state = _from_hugging_face(state, place, source)
    elif custom_text:
        state = {name.removeprefix("text."): value for name, value in state.items()}
    positions, more = state.get("positional_embedding"), state.get("positional_embedding_res")
    long_text = positions is not None and more is not None and positions.shape == more.shape
    if long_text:
        state["positional_embedding"] = torch.cat([positions[:KEPT_POSITIONS], more[KEPT_POSITIONS:]])  # type: ignore[index]
        del state["positional_embedding_res"]
    if "logit_scale" in state and state["logit_scale"].numel() == 1:
        state["logit_scale"] = state["logit_scale"].reshape(())
    return ClipState(state, name_in_file, place.hugging_face, long_text, tuple(notes))


def _from_hugging_face(state: StateDict, place: _Place, source: str) -> StateDict:
    """Hugging Face's names to OpenAI's; what has no counterpart keeps its name."""
    result: StateDict = {}
    for name, value in state.items():
        ours = _openai_name(name)
        if ours in TRANSPOSED and value.dim() == 2:
            result[ours] = value.T
        elif ".attn.in_proj_" in ours:
            rows = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
            if missing := [row for row in rows if row not in state]:
                raise UserError(f"{source}: weight {in_short(f'{place}{missing[0]}')} is missing; {EXPECTED}")
            result[ours] = torch.cat([state[row] for row in rows])
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            result[ours] = value
    return result


def _openai_name(name: str) -> str:
    for theirs, ours in HUGGING_FACE.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            if ours.endswith("resblocks."):
                for inner, our_inner in IN_BLOCKS.items():
                    name = name.replace(f".{inner}", f".{our_inner}", 1)
            return name
    return name


def _name_in_file(place: _Place, custom_text: bool, name: str) -> str:
    """The other way, for messages."""
    if place.hugging_face:
        for theirs, ours in HUGGING_FACE.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                for inner, our_inner in IN_BLOCKS.items():
                    name = name.replace(f".{our_inner}", f".{inner}", 1)
                break
    elif custom_text and not name.startswith(("visual.", "logit_")):
        name = f"text.{name}"
    return f"{place.around}{place.word}{name}"
