"""SegCLIP's evaluation as the reference code does it, a step after the other: what ours is compared with.

One photo and one window at a time, class by class scores of every pixel; PyTorch's own attention, and none of our
modules: everything is computed from a state dict (Luo et al., ICML 2023; docs/methods.md, section 7).
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]

MEAN = np.array((122.7709383, 116.7460125, 104.09373615), np.float32)
STD = np.array((68.5005327, 66.6321579, 70.32316305), np.float32)
VISION = "clip.visual."
SEMANTIC = f"{VISION}transformer.semantic_layer2."
LONG_SIDE = 2048


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def attention(state: State, name: str, query: Tensor, known: Tensor) -> Tensor:
    """Multi-head attention of (T, D) to (S, D), 64 channels a head."""
    width = query.shape[-1]
    result, _ = F.multi_head_attention_forward(
        query[:, None], known[:, None], known[:, None], width, max(1, width // 64),
        state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"], None, None, False, 0.0,
        state[f"{name}.out_proj.weight"], state[f"{name}.out_proj.bias"], training=False,
    )  # fmt: skip
    return result[:, 0]


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    return linear(state, f"{name}.c_proj", quick_gelu(linear(state, f"{name}.c_fc", x)))


def block(state: State, name: str, x: Tensor) -> Tensor:
    normed = norm(state, f"{name}.ln_1", x)
    x = x + attention(state, f"{name}.attn", normed, normed)
    return x + mlp(state, f"{name}.mlp", norm(state, f"{name}.ln_2", x))


def stage(state: State, name: str, x: Tensor) -> Tensor:
    """All blocks of a stage, (T, D) to (T, D)."""
    index = 0
    while f"{VISION}transformer.{name}.{index}.ln_1.weight" in state:
        x = block(state, f"{VISION}transformer.{name}.{index}", x)
        index += 1
    return x


def patch_tokens(state: State, image: Tensor) -> Tensor:
    """(3, S, S) to (N, D) behind the first stage."""
    kernel = state[f"{VISION}conv1.weight"]
    patches = F.conv2d(image[None], kernel, stride=kernel.shape[-1]).flatten(2)[0].T
    tokens = torch.cat([state[f"{VISION}class_embedding"][None], patches]) + state[f"{VISION}positional_embedding"]
    return stage(state, "layers0", norm(state, f"{VISION}ln_pre", tokens)[1:])


def grouped(state: State, name: str, x: Tensor) -> Tensor:
    """(N, D): 64 channels are multiplied by a matrix of their own."""
    parts = [part @ weight[:, :, 0].T for part, weight in zip(x.split(64, dim=1), state[name].split(64))]
    return torch.cat(parts, dim=1)


def centres_of(state: State, tokens: Tensor) -> Tensor:
    """(G, D) centres after they looked at the patches."""
    centres = state[f"{SEMANTIC}semantic_center"]
    for name in (f"{SEMANTIC}cross_att.0", f"{SEMANTIC}cross_att.1"):
        known = norm(state, f"{name}.ln_k", torch.cat([centres, tokens]))
        centres = centres + attention(state, f"{name}.attn", norm(state, f"{name}.ln_x", centres), known)
        centres = centres + mlp(state, f"{name}.mlp", norm(state, f"{name}.ln_2", centres))
    return norm(state, f"{SEMANTIC}cross_ln", centres)


def groups_of(state: State, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (G, N) of the patches for the centres, and the groups' tokens (G, D) behind the semantic layer."""
    centres, normed = centres_of(state, tokens), norm(state, f"{SEMANTIC}norm", tokens)
    keys = norm(state, f"{SEMANTIC}k_ln", grouped(state, f"{SEMANTIC}k_conv.weight", normed))
    values, logits = grouped(state, f"{SEMANTIC}v_conv.weight", normed), centres @ keys.T
    gathered = torch.zeros_like(centres)
    chosen = logits.argmax(dim=0)
    for group in range(len(centres)):
        members = values[chosen == group]
        if len(members):
            gathered[group] = members.mean(dim=0)
    inner = norm(state, f"{SEMANTIC}proj_o.ln", centres + gathered)
    inner = F.gelu(linear(state, f"{SEMANTIC}proj_o.mlp.fc1", inner))
    return logits, quick_gelu(linear(state, f"{SEMANTIC}proj_o.mlp.fc2", inner))


def features_of(state: State, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the image (E,) and of the groups (G, E), not normalised."""
    groups = stage(state, "layers2", groups)
    tokens = torch.cat([groups.max(dim=0).values[None], groups])
    features = norm(state, f"{VISION}ln_post", tokens) @ state[f"{VISION}proj"]
    return features[0], features[1:]


def window_scores(state: State, image: Tensor, texts: Tensor, threshold: float | None, top: int = 5) -> Tensor:
    """Scores (C, S, S) of a window (3, S, S) for unit texts (C, E); with a threshold the background's come first."""
    logits, tokens = groups_of(state, patch_tokens(state, image))
    image_feature, group_features = (F.normalize(part, dim=-1) for part in features_of(state, tokens))
    scale = state["clip.logit_scale"].exp().clamp(max=100)
    similar, of_image = scale * group_features @ texts.T, scale * image_feature @ texts.T  # (G, C), (C,)
    best = of_image.topk(min(top, len(texts))).indices
    masked = torch.full_like(similar, float("-inf"))
    masked[:, best] = similar[:, best]
    affinity = masked.softmax(dim=1) * similar.softmax(dim=1)
    side = image.shape[-1]
    cells = round(logits.shape[1] ** 0.5)
    soft = logits.softmax(dim=0).view(1, -1, cells, cells)
    groups = F.interpolate(soft, size=(side, side), mode="bilinear", align_corners=False)[0].argmax(dim=0)
    members = F.one_hot(groups, len(affinity)).float()  # (S, S, G)
    scores = (members @ affinity).permute(2, 0, 1)
    if threshold is None:
        return scores
    background = scores.max(dim=0).values < min(threshold, float(affinity.max()))
    return torch.cat([background.float()[None], scores])


def resized(photo: np.ndarray, short: int) -> np.ndarray:
    """(H, W, 3) uint8 to a short side of `short`, by OpenCV."""
    height, width = photo.shape[:2]
    scale = min(LONG_SIDE / max(height, width), short / min(height, width))
    return cv2.resize(photo, (int(width * scale + 0.5), int(height * scale + 0.5)), interpolation=cv2.INTER_LINEAR)


@torch.no_grad()
def window_mean(state: State, photo: np.ndarray, texts: Tensor, threshold: float | None, top: int = 5) -> Tensor:
    """The mean (C, h, w) of the windows' scores over the resized photo, (H, W, 3) uint8 RGB."""
    patch = state[f"{VISION}conv1.weight"].shape[-1]
    side = patch * round((len(state[f"{VISION}positional_embedding"]) - 1) ** 0.5)
    small = resized(photo, side)
    pixels = torch.from_numpy((small.astype(np.float32) - MEAN) / STD).permute(2, 0, 1)
    height, width = small.shape[:2]
    classes = len(texts) + (threshold is not None)
    total, count = torch.zeros(classes, height, width), torch.zeros(height, width)
    for row in range(max(1, ceil((height - side) / side) + 1)):
        for column in range(max(1, ceil((width - side) / side) + 1)):
            bottom, right = min(row * side + side, height), min(column * side + side, width)
            place = slice(bottom - side, bottom), slice(right - side, right)
            total[:, place[0], place[1]] += window_scores(state, pixels[:, place[0], place[1]], texts, threshold, top)
            count[place] += 1
    return total / count


def label_map(state: State, photo: np.ndarray, texts: Tensor, threshold: float | None) -> np.ndarray:
    """(H, W) uint8 labels of a photo, 0 the background where it has a threshold."""
    mean = window_mean(state, photo, texts, threshold)
    scores = F.interpolate(mean[None], size=photo.shape[:2], mode="bilinear", align_corners=False)[0].softmax(dim=0)
    return scores.argmax(dim=0).numpy().astype(np.uint8)


def read_photo(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    photo = cv2.imread(str(path))
    assert photo is not None, path
    return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
