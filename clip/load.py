"""A frozen CLIP from a weight file or an open_clip name.

The modules are open_clip's own; this file only finds out which ones the weights need.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

from clip.archive import StateDict, Weights, plain, read_weights
from clip.hub import download
from clip.resnet import STRIDE, holds_resnet, is_resnet, resnet_config
from common.errors import UserError

# Head widths that differ from 64: ViT-H, ViT-g, ViT-bigG and ViT-e of open_clip's model configurations.
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
MAX_BLOCKS, MAX_CONTEXT = 200, 4096  # of a tower, in tokens; ViT-e has 56 blocks, Long-CLIP 248 tokens
BOOKKEEPING = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # in OpenAI's files
WEIGHT_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors"}


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP, in evaluation mode, without gradients for its weights.

    model        open_clip's CLIP
    name         what was asked for
    activation   "quick_gelu" (OpenAI) or "gelu"
    fingerprint  16 hex digits that name the weights, for "made by" records
    """

    model: CLIP
    name: str
    activation: str
    fingerprint: str

    @property
    def visual(self) -> VisionTransformer:
        return self.model.visual

    @property
    def patch_size(self) -> int:
        """Pixels a side of what a map holds one value for."""
        return STRIDE if is_resnet(self.visual) else int(self.visual.conv1.kernel_size[0])

    @property
    def logit_scale(self) -> torch.Tensor:
        """exp(logit_scale), a scalar tensor."""
        return self.model.logit_scale.exp()

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def describe(self) -> str:
        """One line for people: which model, how large, which activation, which weights."""
        if is_resnet(self.visual):
            tower = f"ResNet, {self.visual.attnpool.v_proj.in_features} channels"
        else:
            blocks, width = len(self.visual.transformer.resblocks), self.visual.conv1.out_channels
            tower = f"ViT, {blocks} blocks, width {width}, patch {self.patch_size}"
        return f"{self.name} ({tower}, {self.activation}, weights {self.fingerprint})"


def load_clip(
    model: str,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    activation: str = "auto",
    resnets: bool = False,
) -> Clip:
    """Load a CLIP with a ViT of any width, depth and patch size, in float32.

    model       path of a weight file, or an open_clip model name such as `ViT-B-16`
    pretrained  with a name: an open_clip tag (`openai`, `laion2b_s34b_b88k`) or the path of a weight file
    activation  "auto", "quick_gelu" or "gelu"; auto: OpenAI's weights get QuickGELU, the others what their name says
    resnets     whether a CLIP whose image tower is a ResNet will do

    Raises UserError for a missing or unfit file, an unknown name, and a name that cannot be downloaded.
    """
    if pretrained is None and _looks_like_path(model):
        clip = _from_file(Path(model), activation, resnets)
    else:
        clip = _from_name(model, pretrained, activation, resnets)
    _check_supported(clip)
    clip.model.eval().requires_grad_(False).to(device)
    return clip


def _looks_like_path(model: str) -> bool:
    path = Path(model)
    if path.suffix in WEIGHT_SUFFIXES or len(path.parts) > 1:
        return True
    try:
        return path.exists()
    except OSError:  # a name too long for a file
        return False


# --- a weight file alone -------------------------------------------------------------------------


def _from_file(path: Path, activation: str, resnets: bool) -> Clip:
    weights = read_weights(path)
    if holds_resnet(weights.state) and not resnets:
        raise UserError(f"{path}: the weights of a CLIP whose image tower is a ResNet; expected one with a ViT")
    told = _activation_of(weights) if activation == "auto" else activation
    try:
        model = _model_for(weights.state, told or "quick_gelu")
    except KeyError as error:
        raise UserError(f"{path}: weight {error} is missing; expected a complete CLIP with a ViT") from error
    except Exception as error:  # open_clip and torch each raise their own for sizes that cannot be
        raise UserError(f"{path}: its weights do not have the shapes of a CLIP with a ViT; wrong file?") from error
    _load_state(model, weights.state, str(path))
    if told is None:
        _warn(f"{path} does not say which activation it was trained with; taking QuickGELU, as OpenAI's", "gelu")
    return Clip(model, path.name, told or "quick_gelu", weights.fingerprint)


def _activation_of(weights: Weights) -> str | None:
    """OpenAI's weights are float16 or carry `input_resolution`; open_clip's trainer wraps its own in `state_dict`."""
    if _looks_like_openai(weights) or weights.state["visual.conv1.weight"].dtype == torch.float16:
        return "quick_gelu"
    return "gelu" if weights.container == "checkpoint" else None


def _looks_like_openai(weights: Weights) -> bool:
    return weights.container == "archive" or "input_resolution" in weights.state


def _warn(what: str, other: str) -> None:
    print(f"warning: {what}; if it was trained with the other one, pass --activation {other}", file=sys.stderr)


def _model_for(state: StateDict, activation: str) -> CLIP:
    """An open_clip CLIP with the sizes that the weights have.

    Raises KeyError for a weight that is missing, and others for sizes that do not go together.
    """
    context, text_width = state["positional_embedding"].shape
    vision = resnet_config(state) if holds_resnet(state) else _vit_config(state)
    text = CLIPTextCfg(
        context_length=context,
        vocab_size=len(state["token_embedding.weight"]),
        width=text_width,
        heads=max(1, text_width // 64),
        layers=_count_blocks(state, "transformer"),
        mlp_ratio=len(state["transformer.resblocks.0.mlp.c_fc.weight"]) / text_width,
    )
    if max(*_depths(vision), text.layers) > MAX_BLOCKS or context > MAX_CONTEXT:
        raise ValueError("too many blocks or tokens")
    sizes, quick_gelu = (state["text_projection"].shape[1], vision, text), activation == "quick_gelu"
    with torch.device("meta"):  # without memory: a small file may have the sizes of a huge model
        _check_shapes(CLIP(*sizes, quick_gelu=quick_gelu), state)
    return CLIP(*sizes, quick_gelu=quick_gelu)


def _vit_config(state: StateDict) -> CLIPVisionCfg:
    if "visual.proj" not in state:
        raise KeyError("visual.proj")
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    return CLIPVisionCfg(
        layers=_count_blocks(state, "visual.transformer"),
        width=width,
        head_width=HEAD_WIDTHS.get(width, 64),
        mlp_ratio=len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]) / width,
        patch_size=patch,
        image_size=grid * patch,
    )


def _depths(vision: CLIPVisionCfg) -> tuple[int, ...]:
    """Numbers of blocks: a ViT's, or those of a ResNet's four stages."""
    return (vision.layers, 0) if isinstance(vision.layers, int) else tuple(vision.layers)


def _check_shapes(model: CLIP, state: StateDict) -> None:
    for key, value in model.state_dict().items():
        if state[key].shape != value.shape:
            raise ValueError(f"{key} has another shape than the others ask for")


def _count_blocks(state: StateDict, tower: str) -> int:
    return sum(key.startswith(f"{tower}.resblocks.") and key.endswith(".attn.in_proj_weight") for key in state)


def _load_state(model: CLIP, state: StateDict, source: str) -> None:
    """Strictly: every weight of the model from the file, none left over but OpenAI's three bookkeeping numbers."""
    wanted = {key: value.float() for key, value in state.items() if key not in BOOKKEEPING}
    broken = next((key for key, value in wanted.items() if not torch.isfinite(value).all()), None)
    if broken:
        raise UserError(f"{source}: weight {plain(broken)} has values that are not finite; a damaged or diverged model")
    try:
        model.load_state_dict(wanted)
    except RuntimeError as error:
        lines = str(error).splitlines()
        detail = lines[1].strip() if len(lines) > 1 else lines[0]
        raise UserError(f"{source}: the weights do not fit the model: {plain(detail, 160)}") from error
    if not torch.isfinite(model.logit_scale.exp()):
        raise UserError(f"{source}: logit_scale {model.logit_scale.item():.3g} is no CLIP's; a damaged model")


# --- an open_clip name ---------------------------------------------------------------------------


def _from_name(name: str, pretrained: str | None, activation: str, resnets: bool) -> Clip:
    if _looks_like_path(name):
        raise UserError(
            f"--model {name} is a file, and --pretrained {pretrained} goes with a name; leave one of them out"
        )
    config = None if ":" in name else open_clip.get_model_config(name)  # `hf-hub:...` would go to the network
    if config is None:
        raise UserError(
            f"--model {name}: neither a file nor an open_clip model name; "
            "give a path, or a name such as ViT-B-16 with --pretrained openai"
        )
    if pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)[:6]) or "none"
        raise UserError(f"--model {name}: needs --pretrained with a tag ({tags}) or the path of a weight file")
    towers = (int, list) if resnets else int
    if not isinstance(config["vision_cfg"].get("layers"), towers) or "hf_model_name" in config.get("text_cfg", {}):
        raise UserError(
            f"--model {name}: not a CLIP with a plain ViT and CLIP's own text tower; use one such as ViT-B-16"
        )
    path = Path(pretrained) if _looks_like_path(pretrained) else download(name, pretrained)
    weights = read_weights(path)
    guessed = activation == "auto"
    if guessed:
        activation = _activation_of_name(name, pretrained, weights)
    known = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    model = CLIP(**known, quick_gelu=activation == "quick_gelu")
    _load_state(model, weights.state, str(path))
    if guessed and activation == "gelu" and weights.state["visual.conv1.weight"].dtype == torch.float16:
        _warn(f"{path}: float16, as OpenAI's weights, but {name} runs with GELU", "quick_gelu")
    return Clip(model, f"{name}/{pretrained}", activation, weights.fingerprint)


def _activation_of_name(name: str, pretrained: str, weights: Weights) -> str:
    """The configuration's or the tag's own word; OpenAI's weights always run with QuickGELU, however named."""
    config: dict[str, Any] = open_clip.get_model_config(name) or {}
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, pretrained) or {}
    openai = pretrained == "openai" or _looks_like_openai(weights)
    return "quick_gelu" if openai or config.get("quick_gelu") or tag.get("quick_gelu") else "gelu"


def _check_supported(clip: Clip) -> None:
    """The explicit forward in clip/vision.py knows open_clip's plain ViT; say so rather than compute something else."""
    visual = clip.model.visual
    if is_resnet(visual):
        return
    plain = (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and visual.proj is not None
        and all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
    )
    if not plain:
        raise UserError(
            f"{clip.name}: its image tower is not a plain ViT with a class token; use a CLIP such as ViT-B-16"
        )
