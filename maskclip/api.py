"""What the pip package exports: loading, tokens, text embeddings."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clip.device import pick_device
from clip.image import prepare_image
from clip.load import load_clip
from clip.templates import BASE18, MASKCLIP85, fill_templates
from clip.text import token_ids
from clip.text_cache import cached_prompts
from common.errors import UserError
from maskclip.class_names import CLASSES
from maskclip.model import MaskClip

# The package's names and open_clip's for the same.
MODELS = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
TEMPLATES = {"maskclip": MASKCLIP85, "base": BASE18}
CACHES = ("maskclip", "clip")  # folders of ~/.cache into which that package and OpenAI's put their downloads

_latest: "weakref.ref[MaskClip] | None" = None  # the package's README makes text embeddings without naming a model


def available_models() -> list[str]:
    """Names that `load` knows; it takes the path of a weight file too."""
    return list(MODELS)


def available_datasets() -> list[str]:
    """Data sets whose classes `load(dataset=...)` knows."""
    return list(CLASSES)


def load(
    name: str,
    device: str | torch.device | None = None,
    input_resolution: int | None = None,
    dataset: str | None = None,
    text_feature_layer: int = -1,
    templates: str | Sequence[str] = "maskclip",
    **_ignored: Any,
) -> tuple[MaskClip, Callable[[Image.Image], Tensor]]:
    """A model, and the function from a PIL image to its input (3, R, R), of which a batch is stacked.

    name                one of `available_models`, the path of a weight file, or an open_clip name
    device              None: a GPU when there is one
    input_resolution    R; None: the size the model was trained with
    dataset             one of `available_datasets`, whose classes the model then scores at once
    text_feature_layer  as in MaskClip.encode_text, of these classes
    templates           "maskclip", "base", or sentences with {} for the name

    Further keywords of the package (`jit`, `download_root`) change nothing. Raises UserError, in one line, for
    unknown names and for weights that are not there and cannot be downloaded.
    """
    global _latest
    if dataset is not None and dataset not in CLASSES:
        raise UserError(f"dataset {dataset!r}: unknown; expected one of {', '.join(CLASSES)}")
    picked = pick_device("auto" if device is None else str(device))
    path = downloaded(name)
    known = name in MODELS and path is None
    clip = load_clip(MODELS[name] if known else str(path or name), "openai" if known else None, picked, resnets=True)
    model = MaskClip(clip)
    if dataset is not None:
        model.initialize_text_embeddings(
            generate_text_embeddings(model, CLASSES[dataset], templates, feature_layer=text_feature_layer)
        )
    _latest = weakref.ref(model)
    return model, partial(_prepared, side=input_resolution or int(clip.visual.image_size))


def downloaded(name: str) -> Path | None:
    """The file of a known model that the pip package, or OpenAI's, has fetched before."""
    if name not in MODELS:
        return None
    file = name.replace("/", "-").replace("@", "-") + ".pt"
    places = [Path.home() / ".cache" / folder / file for folder in CACHES]
    return next((place for place in places if place.is_file()), None)


def _prepared(image: Image.Image, side: int) -> Tensor:
    """A PIL image to (3, side, side): its aspect is lost, and it is resized before its colours are converted, as in the
    package."""
    return prepare_image(image.resize((side, side), Image.Resampling.BICUBIC).convert("RGB"), patch_size=1)


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    """(T, context_length) int64 token ids. Raises UserError for a text that does not fit."""
    return token_ids([texts] if isinstance(texts, str) else list(texts), context_length)


def generate_text_embeddings(
    first: "MaskClip | Sequence[str]",
    second: "MaskClip | str | Sequence[str] | None" = None,
    templates: str | Sequence[str] = "maskclip",
    device: str | torch.device | None = None,
    feature_layer: int | None = None,
    *,
    model: MaskClip | None = None,
) -> Tensor:
    """Class names to (C, E) float32 unit embeddings, each the mean over the templates; kept on disk.

    Called as (model, class names, ...), (class names, model, ...) or, as in the package's README, with class names
    alone, for the model that was loaded last. `templates` is as in `load`.
    As in the package, "background" is left out; the caller's list stays as it is.
    """
    model, names, templates = _sort_arguments(first, second, templates, model)
    groups = [(name,) for name in names if name != "background"]
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise UserError(f"templates {templates!r}: unknown; expected one of {', '.join(TEMPLATES)}, or sentences")
        templates = TEMPLATES[templates]
    prompts = fill_templates(templates, groups)
    return cached_prompts(model.clip, prompts, model.text_blocks(feature_layer)).to(device or model.clip.device)


def _sort_arguments(
    first: Any, second: Any, templates: str | Sequence[str], model: MaskClip | None
) -> tuple[MaskClip, Sequence[str], str | Sequence[str]]:
    """The model, the class names and the templates, in whichever order they came."""
    models = [argument for argument in (first, second, model) if isinstance(argument, MaskClip)]
    others = [argument for argument in (first, second) if argument is not None and not isinstance(argument, MaskClip)]
    model = models[0] if models else _latest() if _latest else None
    if model is None:
        raise UserError("generate_text_embeddings: no model; pass the one that maskclip.load returned")
    if not others or isinstance(others[0], str):
        raise UserError("generate_text_embeddings: no class names; pass a list of them")
    return model, others[0], others[1] if len(others) > 1 else templates
