"""A frozen CLIP from a weight file or an open_clip name."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clip import hub
from clip.archive import Weights, read_weights
from clip.folder import WEIGHT_SUFFIXES, other_mean, weight_files
from clip.learned_prompts import LearnedPrompts, read_learned_prompts
from clip.model import (
    CLIP,
    HeadsError,
    ImageSizes,
    StateDict,
    Texts,
    fill,
    holds_resnet,
    sizes_of_config,
    sizes_of_weights,
    towers,
)
from clip.resnet import STRIDE, ModifiedResNet
from clip.tokenizer import SIZE as VOCABULARY
from clip.transformer import TextSizes, VitSizes
from common.errors import UserError, in_short

ADDED = 1000  # tokens that people added to CLIP's vocabulary, at most
BOOKKEEPING = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # in OpenAI's files


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP, in evaluation mode, in float32, without gradients for its weights.

    model        the image tower and the logit scale
    texts        the text tower, which is built when it is first needed
    name         the file's name, or model/tag
    activation   "quick_gelu" (OpenAI) or "gelu"
    fingerprint  16 hex digits that name the weights, for "made by" records
    learned      prompts that stand in place of all templates
    """

    model: CLIP
    texts: Texts
    name: str
    activation: str
    fingerprint: str
    learned: LearnedPrompts | None = None

    @property
    def visual(self) -> Any:
        """The image tower: a VisionTransformer, or a ModifiedResNet where `load_clip` may return one."""
        return self.model.visual

    @property
    def patch_size(self) -> int:
        """Pixels a side of what a map holds one value for."""
        return STRIDE if isinstance(self.visual, ModifiedResNet) else int(self.visual.conv1.kernel_size[0])

    @property
    def logit_scale(self) -> torch.Tensor:
        """exp(logit_scale), a scalar tensor."""
        return self.model.logit_scale.exp()

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def describe(self) -> str:
        """One line for people: which model, how large, which activation, which weights."""
        if isinstance(self.visual, ModifiedResNet):
            tower = f"ResNet, {self.visual.attnpool.v_proj.in_features} channels"
        else:
            blocks, width = len(self.visual.transformer.resblocks), self.visual.conv1.out_channels
            tower = f"ViT, {blocks} blocks, width {width}, patch {self.patch_size}"
        learned = f", {self.learned.describe()}" if self.learned else ""
        return f"{self.name} ({tower}, {self.activation}, weights {self.fingerprint}{learned})"


def load_clip(
    model: str,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    activation: str = "auto",
    resnets: bool = False,
    prompts: Path | None = None,
) -> Clip:
    """Load a CLIP with a ViT of any width, depth and patch size, in float32.

    model       path of a weight file or of a model's folder, or an open_clip model name such as `ViT-B-16`
    pretrained  with a name: an open_clip tag (`openai`, `laion2b_s34b_b88k`) or the path of a weight file
    activation  "auto", "quick_gelu" or "gelu"; auto: OpenAI's weights get QuickGELU, the others what their name
                says; where nothing says it a warning names the choice
    resnets     whether a CLIP whose image tower is a ResNet will do
    prompts     a file of learned prompts (clip/learned_prompts.py)

    Raises UserError for a missing or unfit file, an unknown name, and a name that cannot be downloaded.
    """
    if pretrained is None and _looks_like_path(model):
        clip = _from_file(Path(model), activation, resnets)
    else:
        clip = _from_name(model, pretrained, activation, resnets)
    clip.model.to(device)
    return replace(clip, learned=read_learned_prompts(prompts, clip)) if prompts else clip


def check_model(model: str, pretrained: str | None = None) -> None:
    """Raise UserError for a file that is missing or a name that open_clip does not have. No weights are read."""
    if pretrained is None and _looks_like_path(model):
        weight_files(Path(model))
    else:
        _named(model, pretrained, True)
        if pretrained is not None and _looks_like_path(pretrained):
            weight_files(Path(pretrained))


def clip_of(
    weights: Weights, name: str, activation: str, source: str, sizes: tuple[ImageSizes, TextSizes] | None = None
) -> Clip:
    """The CLIP that has these weights, every one of them.

    source  names the weights in messages
    sizes   what the model is known to have; None: read from the weights

    Raises UserError for weights that are missing, left over (but for OpenAI's bookkeeping), of another shape or not
    finite.
    """
    state = {key: value for key, value in weights.state.items() if key not in BOOKKEEPING}
    try:
        heads = weights.config.heads if weights.config else None
        model, tower = towers(*(sizes or sizes_of_weights(state, heads)), activation)
    except KeyError as error:
        name = weights.name_in_file(str(error.args[0]))
        raise UserError(f"{source}: weight {name} is missing; expected a complete CLIP with a ViT") from error
    except HeadsError as error:
        raise UserError(f"{source}: {error}") from error
    except Exception as error:  # torch has its own for sizes that cannot be
        raise UserError(f"{source}: its weights do not have the shapes of a CLIP with a ViT; wrong file?") from error
    if (words := len(state["token_embedding.weight"])) > VOCABULARY + ADDED:
        raise UserError(f"{source}: a vocabulary of {words} tokens: of another tokenizer than CLIP's ({VOCABULARY})")
    wanted = {**model.state_dict(), **tower.state_dict()}
    check_weights(source, state, wanted, "a complete CLIP of this size", weights.name_in_file)
    fill(model, {key: state.pop(key) for key in model.state_dict()})
    if not torch.isfinite(model.logit_scale.exp()):
        raise UserError(f"{source}: logit_scale {model.logit_scale.item():.3g} is no CLIP's; a damaged model")
    return Clip(model, Texts(tower, state), name, activation, weights.fingerprint)


def check_weights(
    source: str, state: StateDict, wanted: StateDict, what: str, name_in_file: Callable[[str], str] = str
) -> None:
    """Raise UserError for a weight that is missing, left over, of another shape than in `wanted`, or not finite.

    source        names the weights in the message
    what          was expected, to people
    name_in_file  from a key to what the file calls that weight
    """
    for key, value in wanted.items():
        name = in_short(name_in_file(key))
        if key not in state:
            raise UserError(f"{source}: weight {name} is missing; expected {what}")
        if state[key].shape != value.shape:
            shapes = f"the shape {tuple(state[key].shape)}, expected {tuple(value.shape)}"
            raise UserError(f"{source}: weight {name} has {shapes}; wrong file?")
        if value.is_floating_point() and not state[key].is_floating_point():
            raise UserError(f"{source}: weight {name} holds {state[key].dtype}, not floats; a quantised model?")
        if not _is_finite(state[key]):
            raise UserError(f"{source}: weight {name} has values that are not finite; a damaged or diverged model")
    if left_over := in_short(", ".join(map(name_in_file, sorted(state.keys() - wanted.keys())[:2]))):
        raise UserError(f"{source}: the weights do not fit the model: it has no place for {left_over}")


def _is_finite(value: torch.Tensor) -> bool:
    """By the extremes: asking all numbers of a ViT-B/16 in half precision takes a second."""
    value = value if value.dtype in (torch.float16, torch.bfloat16) else value.float()
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(value))


def _looks_like_path(model: str) -> bool:
    path = Path(model)
    if path.suffix in WEIGHT_SUFFIXES or len(path.parts) > 1:
        return True
    try:
        return path.exists()
    except OSError:  # a name too long for a file
        return False


def _from_file(path: Path, activation: str, resnets: bool) -> Clip:
    weights = read_weights(path)
    if holds_resnet(weights.state) and not resnets:
        raise UserError(f"{path}: the weights of a CLIP whose image tower is a ResNet; expected one with a ViT")
    known = activation != "auto" or _told_activation(weights) is not None
    if activation == "auto":
        # float16 as OpenAI's, or in the container of open_clip's trainer: hints, as both hold fine-tuned models too
        half = weights.state["visual.conv1.weight"].dtype == torch.float16
        guess = "gelu" if weights.container == "checkpoint" and not half else "quick_gelu"
        activation = _told_activation(weights) or guess
    clip = clip_of(weights, path.name, activation, str(path))
    _print_notes(path, weights.notes)
    if not known:
        _warn_of_guess(path, activation)
    return clip


def _told_activation(weights: Weights) -> str | None:
    """What a config beside the weights says; QuickGELU for OpenAI's own and Long-CLIP's, which began as OpenAI's."""
    if weights.config:
        return weights.config.activation
    of_openai = weights.container == "archive" or "input_resolution" in weights.state
    return "quick_gelu" if of_openai or weights.long_text else None


def _print_notes(path: Path, notes: Iterable[str]) -> None:
    for note in notes:
        print(f"warning: {path}: {note}", file=sys.stderr)


def _warn_of_guess(path: Path, activation: str) -> None:
    other = "gelu" if activation == "quick_gelu" else "quick_gelu"
    print(
        f"warning: {path} does not say which activation it was trained with; taking {activation} "
        f"(--activation {activation} settles it; models trained or fine-tuned with the other need "
        f"--activation {other})",
        file=sys.stderr,
    )


def _named(name: str, pretrained: str | None, resnets: bool) -> tuple[dict[str, Any], tuple[ImageSizes, TextSizes]]:
    """open_clip's configuration of a name, and the sizes it says. Raises UserError for a name that will not do."""
    if _looks_like_path(name):
        raise UserError(
            f"--model {name} is a file, and --pretrained {pretrained} goes with a name; leave one of them out"
        )
    config = hub.model_config(name)
    if config is None:
        raise UserError(
            f"--model {name}: neither a file nor an open_clip model name; "
            "give a path, or a name such as ViT-B-16 with --pretrained openai"
        )
    if pretrained is None:
        tags = ", ".join(hub.pretrained_tags(name)[:6]) or "none"
        raise UserError(f"--model {name}: needs --pretrained with a tag ({tags}) or the path of a weight file")
    sizes = sizes_of_config(config)
    if sizes is None or not (resnets or isinstance(sizes[0], VitSizes)):
        raise UserError(
            f"--model {name}: not a CLIP with a plain ViT and CLIP's own text tower; use one such as ViT-B-16"
        )
    return config, sizes


def _from_name(name: str, pretrained: str | None, activation: str, resnets: bool) -> Clip:
    config, sizes = _named(name, pretrained, resnets)
    assert pretrained is not None
    is_file = _looks_like_path(pretrained)
    path = Path(pretrained) if is_file else hub.download(name, pretrained)
    weights = read_weights(path)
    tag = {} if is_file else hub.tag_config(name, pretrained)
    guessed = activation == "auto"
    if guessed:
        quick = config.get("quick_gelu") or tag.get("quick_gelu") or pretrained == "openai"
        told = _told_activation(weights)
        activation = told or ("quick_gelu" if quick else "gelu")
        # the plain name of a file's model says GELU, and also of models that were fine-tuned from OpenAI's
        half = weights.state["visual.conv1.weight"].dtype == torch.float16
        guessed = told is None and activation == "gelu" and (is_file or half)
    clip = clip_of(weights, f"{name}/{pretrained}", activation, str(path), sizes)
    _print_notes(path, [*weights.notes, *filter(None, [other_mean(tag.get("mean"))])])
    if guessed:
        _warn_of_guess(path, activation)
    return clip
