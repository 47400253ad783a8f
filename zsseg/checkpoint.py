"""MaskFormer checkpoints: every tensor of the file goes into the network, and the network gets all of its tensors.

The names are those of detectron2's MaskFormer with zsseg's additions. Three containers are read, none with code in it:
safetensors, a PyTorch file of tensors, and one with the tensors under `model`, as detectron2 writes it. A safetensors
file of this project says in its header what is not to be read from shapes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from clip.archive import read_tensors
from common.errors import UserError, in_short
from common.files import atomic_write
from common.version import VERSION
from zsseg.maskformer import BACKBONE_NORMS, MaskFormer
from zsseg.resnet import STAGES
from zsseg.sizes import Sizes

KEY = "zsseg"  # of the header's metadata
FORMAT = 1
HEADS = 8  # as published; shapes do not tell
EXPECTED = "a zsseg MaskFormer: weights.safetensors of scripts.train_zsseg, or a published checkpoint"
PIXEL_DECODER = "sem_seg_head.pixel_decoder."
CLIP_PARTS = ("clip_adapter.clip_model.", "_region_clip_adapter.clip_model.")  # the whole CLIP, in published files
QUERY, REGION, LEARNER = "clip_adapter.", "_region_clip_adapter.", "prompt_learner."
PROMPT = re.compile(r"(prefix|suffix)_prompt|(start|dot|end|pad)_signal")


@dataclass(frozen=True)
class About:
    """What a file of this project says of its network.

    sizes       of the network
    names       of the classes that it was trained on
    words       how their text embeddings were made: which CLIP, which prompts
    iterations  changes of the weights
    short, longest  sides of the images that it looks at
    """

    sizes: Sizes
    names: tuple[str, ...]
    words: Mapping[str, str] = field(default_factory=dict)
    iterations: int = 0
    short: int = 640
    longest: int = 2560
    code: str = VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode on the CPU, what its file says of it (a published one: None), and CLIP's tensors.

    clip  the tensors of the CLIP that a published file holds, by OpenAI's names
    """

    network: MaskFormer
    about: About | None
    clip: Mapping[str, Tensor]


def read_checkpoint(path: Path, heads: int = HEADS) -> Checkpoint:
    """The network of a file.

    heads  of the decoder's attention, where the file does not say it
    Raises UserError, in one line, for a file of another kind, and for missing, left over and misshapen tensors.
    """
    state, about = _read(path)
    clip: dict[str, Tensor] = {}
    for part in CLIP_PARTS:
        for name in [name for name in state if name.startswith(part)]:
            clip[name.removeprefix(part)] = state.pop(name)
    state = with_pixel_decoder(state)
    sizes = about.sizes if about else _sizes(path, state, heads)
    two = any(name.startswith(REGION) for name in state)
    network = MaskFormer(sizes, _prompts(state, QUERY + LEARNER), _prompts(state, REGION + LEARNER) if two else None)
    fill(network, state, path)
    return Checkpoint(network.eval(), about, clip)


def fill(network: MaskFormer, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors of a file into a network; raises UserError unless both have the same names and shapes."""
    wanted = network.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    told = [_listed("missing", missing), _listed("left over", extra)]
    for name in sorted(wanted.keys() & state.keys()):
        if wanted[name].shape != state[name].shape:
            told.append(f"{name} has the shape {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}")
            break
    if problem := "; ".join(filter(None, told)):
        raise UserError(f"{path}: its tensors are not the network's: {problem}; expected {EXPECTED}")
    network.load_state_dict(dict(state))


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {what} ({in_short(', '.join(names[:3]))}{', ...' if len(names) > 3 else ''})"


def with_pixel_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of older MaskFormer files, which lack `pixel_decoder.`, completed; names that have it stay."""
    head = "sem_seg_head."
    older = re.compile(rf"{re.escape(head)}(adapter_\d|layer_\d|mask_features)\.")
    return {
        PIXEL_DECODER + name.removeprefix(head) if older.match(name) else name: value for name, value in state.items()
    }


def write_checkpoint(path: Path, network: MaskFormer, about: About) -> None:
    """Write a network as safetensors, whole or not at all; CLIP is not in it."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_write(path) as stream:
        stream.write(save(tensors, metadata={KEY: json.dumps({"format": FORMAT, **asdict(about)})}))


def _read(path: Path) -> tuple[dict[str, Tensor], About | None]:
    """The tensors of a file by name, and what its header says."""
    state = read_tensors(path, EXPECTED).state
    if "sem_seg_head.predictor.query_embed.weight" not in state:
        names = in_short(", ".join(sorted(state)[:2])) or "no tensors"
        raise UserError(f"{path}: not the weights of a MaskFormer (found {names}); expected {EXPECTED}")
    return state, read_about(path)


def read_about(path: Path) -> About | None:
    """What a file says of its network; None for a published one. Reads its header alone."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as opened:
        return _about(path, (opened.metadata() or {}).get(KEY))


def _about(path: Path, text: str | None) -> About | None:
    if text is None:
        return None
    try:
        fields = dict(json.loads(text))
        if fields.pop("format") != FORMAT:
            raise UserError(f"{path}: made by another version of this code ({fields.get('code')}); train it again")
        sizes = Sizes(**{**fields["sizes"], "blocks": tuple(fields["sizes"]["blocks"])})
        if sizes.norm not in BACKBONE_NORMS:
            raise ValueError(f"norm {sizes.norm}")
        return About(**{**fields, "sizes": sizes, "names": tuple(map(str, fields["names"]))})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its header does not say which network it is; expected {EXPECTED}") from error


def _sizes(path: Path, state: Mapping[str, Tensor], heads: int) -> Sizes:
    """The sizes of a published network, from the shapes of its tensors."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise UserError(f"{path}: {name} is missing; expected {EXPECTED}")
        return state[name].shape

    predictor = "sem_seg_head.predictor."
    layers = f"{predictor}transformer.decoder.layers."
    if "clip_adapter.non_object_embedding" not in state:
        raise UserError(f"{path}: a plain MaskFormer, whose classes are no texts; expected {EXPECTED}")
    try:
        return Sizes(
            classes=shape("criterion.empty_weight")[0] - 1,
            text_width=shape("clip_adapter.non_object_embedding")[1],
            width=shape("backbone.stem.conv1.weight")[0],
            blocks=tuple(_numbered(state, f"backbone.{stage}.") for stage in STAGES),
            deep_stem="backbone.stem.conv2.weight" in state,
            features=shape(f"{PIXEL_DECODER}layer_4.weight")[0],
            masks=shape(f"{PIXEL_DECODER}mask_features.weight")[0],
            hidden=shape(f"{predictor}query_embed.weight")[1],
            heads=heads,
            feedforward=shape(f"{layers}0.linear1.weight")[0],
            layers=_numbered(state, layers),
            queries=shape(f"{predictor}query_embed.weight")[0],
            class_hidden=shape(f"{predictor}class_embed.layers.0.weight")[0],
        )
    except IndexError as error:
        raise UserError(f"{path}: its tensors do not have the shapes of a MaskFormer; expected {EXPECTED}") from error


def _numbered(state: Mapping[str, Tensor], prefix: str) -> int:
    """The number of modules in a list of them."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _prompts(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The learned prompts of an adapter by name."""
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    return {short: state[name] for name, short in names.items() if PROMPT.fullmatch(short)}
