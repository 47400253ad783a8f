"""A model's folder as Hugging Face and open_clip write it: which files hold the weights, and what the config says."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip.forms import EXPECTED
from clip.image import MEAN
from clip.model import sizes_of_config
from common.errors import UserError, in_short
from common.files import is_file

WEIGHT_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors"}

# Of Hugging Face, in one file or in parts that an index names, and of open_clip; the first that is there is taken.
SINGLE = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
INDEX = ".index.json"
INDEXES = tuple(f"{name}{INDEX}" for name in SINGLE)
PART = re.compile(r"-\d{5}-of-\d{5}\.")

HF_CONFIG, OPEN_CLIP_CONFIG, HF_IMAGES = "config.json", "open_clip_config.json", "preprocessor_config.json"
HF_TYPES = ("clip", "longclip", "clipseg")  # `model_type` of what OpenAI's towers run
EPSILON = 1e-5  # of every layer norm
MOST_JSON = 1 << 24  # bytes


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a model's weights.

    parts   all of them
    folder  where a config of theirs is looked for; None for a file on its own
    """

    parts: tuple[Path, ...]
    folder: Path | None = None


@dataclass(frozen=True)
class ModelConfig:
    """What the config of a model says that its weights do not.

    activation  "quick_gelu" or "gelu"
    heads       of the image tower and of the text tower
    mean        of the images that the model was trained with, RGB; None where that is not said
    """

    path: Path
    activation: str
    heads: tuple[int, int]
    mean: tuple[float, ...] | None = None


def weight_files(path: Path, expected: str = EXPECTED) -> WeightFiles:
    """The files of `--model PATH`: a weight file, a folder, or the index of weights in parts; raises UserError.

    expected  "expected ...": what should be there, for messages
    """
    if path.name.endswith(INDEX) and is_file(path):
        return _parts(path)
    if is_file(path):
        if PART.search(path.name):
            raise UserError(f"{path}: one of several parts of a model; pass its folder, with the index and all parts")
        return WeightFiles((path,), path.parent if path.name in SINGLE else None)
    if not _is_folder(path):
        raise UserError(_missing(path, expected))
    for name in [name for pair in zip(SINGLE, INDEXES) for name in pair]:
        if is_file(path / name):
            return _parts(path / name) if name.endswith(INDEX) else WeightFiles((path / name,), path)
    found = sorted(file.name for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    if len(found) == 1 and not PART.search(found[0]):
        return WeightFiles((path / found[0],), path)
    listed = in_short(", ".join(found[:3]))
    what = f"several weight files ({listed}); pass one of them" if found else f"no weight file there; {expected}"
    if found and all(PART.search(name) for name in found):
        what = f"parts of weights ({listed}) without their index; expected {INDEXES[0]} beside them"
    elif (path / "snapshots").is_dir():
        what = "a cache folder of Hugging Face; pass the folder below its snapshots/ that holds config.json"
    raise UserError(f"{path}: {what}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for a file
        return False


def _missing(path: Path, expected: str) -> str:
    name = str(path).removeprefix("hf-hub:")
    if path.suffix not in WEIGHT_SUFFIXES and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        place = f"weights/{name.split('/')[1]}"
        download = f"`hf download {name} --local-dir {place}`, then pass {place}"
        return f"{path}: no such file or folder; for the model of this name on Hugging Face: {download}"
    return f"{path}: no such weight file; {expected}"


def _parts(index: Path) -> WeightFiles:
    """The files that an index names. Raises UserError for one that is missing."""
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: names no parts; expected a `weight_map` as Hugging Face writes it")
    parts = sorted({str(name) for name in names.values()})
    for name in parts:
        if Path(name).name != name or not is_file(index.parent / name):
            raise UserError(f"{index}: its part {in_short(name)} is missing; fetch all files of the model again")
    return WeightFiles(tuple(index.parent / name for name in parts), index.parent)


def config_beside(files: WeightFiles, hugging_face: bool) -> ModelConfig | None:
    """What the config in the weights' folder says; None where there is none. Raises UserError for another model's."""
    path = (files.folder or Path()) / (HF_CONFIG if hugging_face else OPEN_CLIP_CONFIG)
    if files.folder is None or not is_file(path):
        return None
    config = _read_json(path)
    try:
        return _of_hugging_face(path, config) if hugging_face else _of_open_clip(path, config)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not the config of a CLIP ({in_short(error)}); fetch it again") from error


def _of_hugging_face(path: Path, config: Mapping[str, Any]) -> ModelConfig:
    if (kind := config.get("model_type", "clip")) not in HF_TYPES:
        raise UserError(f"{path}: model_type {in_short(kind)}: not OpenAI's towers; {EXPECTED}")
    vision, text = (_section(config, tower) for tower in ("vision", "text"))
    activations = {section.get("hidden_act", "quick_gelu") for section in (vision, text)}
    if len(activations) > 1 or not activations <= {"quick_gelu", "gelu"}:
        listed = in_short(", ".join(sorted(map(str, activations))))
        raise UserError(f"{path}: hidden_act {listed}; expected quick_gelu or gelu, the same in both towers")
    for section in (vision, text):
        if not math.isclose(section.get("layer_norm_eps", EPSILON), EPSILON):
            raise UserError(f"{path}: layer_norm_eps {in_short(section['layer_norm_eps'])}; expected {EPSILON}")
    heads = (int(vision.get("num_attention_heads", 12)), int(text.get("num_attention_heads", 8)))
    images = path.parent / HF_IMAGES
    mean = _numbers(_read_json(images).get("image_mean")) if is_file(images) else None
    return ModelConfig(path, activations.pop(), heads, mean)


def _section(config: Mapping[str, Any], tower: str) -> Mapping[str, Any]:
    """A tower's settings; old files have them twice, and transformers goes by the second."""
    second = config.get(f"{tower}_config_dict")
    return (config.get(f"{tower}_config") or {}) if second is None else second


def _of_open_clip(path: Path, config: Mapping[str, Any]) -> ModelConfig:
    model = config["model_cfg"]
    sizes = sizes_of_config(model)
    if sizes is None:
        raise UserError(f"{path}: not a CLIP with a plain image tower and CLIP's own text tower; {EXPECTED}")
    vision, text = sizes
    heads = vision.heads if not hasattr(vision, "blocks") else vision.blocks.heads
    mean = _numbers((config.get("preprocess_cfg") or {}).get("mean"))
    return ModelConfig(path, "quick_gelu" if model.get("quick_gelu") else "gelu", (heads, text.blocks.heads), mean)


def _numbers(values: Any) -> tuple[float, ...] | None:
    return tuple(map(float, values)) if isinstance(values, list) else None


def other_mean(mean: Sequence[float] | None) -> str:
    """A warning for a model that was trained with another mean of its images than OpenAI's; else empty."""
    if mean is None or all(abs(a - b) < 0.01 for a, b in zip(mean, MEAN)):
        return ""
    listed = ", ".join(f"{value:.3g}" for value in mean)
    return f"it was trained with images of mean ({listed}); here they get OpenAI's, and the maps may be weaker"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_JSON:
            raise ValueError("too large")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({in_short(error)}); fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a JSON object")
    return content
